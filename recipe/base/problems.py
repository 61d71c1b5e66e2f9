"""Put the first problem that pydantic finds in a file into words."""

from types import NoneType
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "string_type": "a text",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}


class Problem(NamedTuple):
    """A value that is missing or not allowed."""

    key: str
    """Dotted, with list places in brackets."""
    found: Any
    allowed: str
    is_missing: bool
    is_unknown: bool


def first_problem(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Return the first problem of a file that `model` describes."""
    problem = error.errors()[0]
    kind, found = problem["type"], problem["input"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
    annotation = annotation_at(problem["loc"], model)
    allowed = WORDS.get(kind, problem["msg"]).format(**problem.get("ctx", {}))
    if kind != "missing" and NoneType in get_args(annotation):
        allowed += " or null"
    return Problem(key[1:], found, allowed, kind == "missing", kind == "extra_forbidden")


def annotation_at(place: tuple[int | str, ...], model: type[BaseModel]) -> Any:
    """Return the type of the value at a place; None where the model has no field for it."""
    annotation: Any = model
    for part in place:
        kinds = (annotation, *get_args(annotation))
        owner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if owner is None or isinstance(part, int):
            # The members of a list or an object: the last argument of list[X] or dict[str, X].
            annotation = next(
                (k for k in reversed(get_args(annotation)) if k is not NoneType), None
            )
            continue
        fields = {field.alias or name: field for name, field in owner.model_fields.items()}
        annotation = fields[part].annotation if part in fields else None
    return annotation
