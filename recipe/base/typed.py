"""Parse a section of a config into a typed object, with errors that a person can act on.

A settings type is a frozen dataclass. Its annotations say what is allowed: `Literal["a", "b"]`,
`Annotated[float, Gt(0)]` (annotated_types). Its `__post_init__` may raise a ValueError for what
concerns several keys. Unknown keys are refused.
"""

import json
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from recipe.base.errors import UserError

T = TypeVar("T")
# pydantic's kinds of errors that are about a key rather than its value.
MISSING, UNKNOWN = "missing", "unexpected_keyword_argument"


def parse(kind: type[T], section: Any, key: str) -> T:
    """Return a config section as an object of `kind`.

    Args:
        kind: a dataclass.
        section: a mapping of plain values, as `OmegaConf.to_container` makes it.
        key: the section's dotted key, for the error.

    Raises:
        UserError: a key is missing or unknown, or a value is not allowed. The text names the key,
            what was found and what is allowed.
    """
    try:
        # JSON, because pydantic's strict mode takes mappings for dataclasses only there.
        return _adapter(kind).validate_json(json.dumps(section), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    *above, name = problem["loc"] or ("",)
    where = ".".join(map(str, filter(None, [key, *problem["loc"]])))
    known = _names(kind, above)
    if problem["type"] == "value_error":
        raise UserError(str(problem.get("ctx", {})["error"]))
    if problem["type"] == MISSING:
        raise UserError(f"{where} is missing. Its section must have the keys {', '.join(known)}.")
    if problem["type"] == UNKNOWN:
        close = get_close_matches(str(name), known, n=1)
        nearest = f"The nearest is {close[0]}. " if close else ""
        raise UserError(f"there is no key {where}. {nearest}Known keys are {', '.join(known)}.")
    allowed = problem["msg"].replace("Input should be", "must be").replace("an object", "a section")
    raise UserError(f"{where} is {json.dumps(problem['input'])}, but {allowed}.")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _names(kind: Any, above: list[Any]) -> list[str]:
    """Return the keys of `kind`, or of the section below it that `above` leads to."""
    for name in above:
        hints = get_type_hints(kind)[name]
        kind = next((part for part in (hints, *get_args(hints)) if is_dataclass(part)), None)
        if kind is None:
            return []
    return [field.name for field in fields(kind)]
