"""Explain in one paragraph what is wrong with the overrides of a command line."""

from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError
from recipe.config.groups import groups

WRONG_OVERRIDES = (ConfigCompositionException, MissingConfigException, OverrideParseException)


def check_choice(choices: Mapping[str, str | None], overrides: Iterable[str]) -> None:
    """Refuse a command line that chooses nothing to train, or adds a key that nothing reads.

    Raises:
        UserError: neither an experiment nor a model and a cluster was chosen, or `+NAME=VALUE` adds
            an unknown key.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name = override.key_or_group
        if override.is_add() and "." not in name and name not in groups():
            raise UserError(
                f"+{name} would add a key of its own that nothing reads. {_nearest(name, groups())}"
            )
    if choices.get("experiment") or (choices.get("model") and choices.get("cluster")):
        return
    raise UserError(
        f"nothing was chosen to train. Add +experiment=NAME with one of "
        f"{', '.join(groups()['experiment'])}, or choose model=... data=... cluster=...; "
        f"python -m recipe.main --help lists them."
    )


def explanation(
    error: Exception, overrides: list[str], compose: Callable[[list[str]], DictConfig]
) -> str:
    """Return in one paragraph what Hydra refused, with the nearest known name.

    Args:
        error: what Hydra raised.
        overrides: the command line.
        compose: composes overrides without explaining their errors.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = list(groups().get(group, error.options or []))
        return (
            f"there is no config {error.missing_cfg_file}; known ones are {', '.join(known)}. "
            f"{_nearest(option, known)}"
        )
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        known = keys(compose([str(o.input_line) for o in parsed if o.key_or_group in groups()]))
    except WRONG_OVERRIDES:
        parsed, known = [], []
    for override in parsed:
        key = override.key_or_group
        if override.type is OverrideType.CHANGE and key not in [*known, *groups()]:
            near = ", ".join(nearest_keys(key, known)) or "none"
            add = f", or write +{override.input_line} to add a key" if "." in key else ""
            return (
                f"there is no key {key} to override; the nearest known: {near}. Correct it{add}. "
                f"python -m recipe.main --help lists the keys that matter, --cfg job prints all."
            )
    return ". ".join(line.strip(" .") for line in str(error).splitlines()) + "."


def keys(config: DictConfig) -> list[str]:
    """Return the dotted keys of a config and of its sections, without following interpolations."""
    found = []
    for name in map(str, config):
        found.append(name)
        if not OmegaConf.is_missing(config, name) and not OmegaConf.is_interpolation(config, name):
            value = config[name]
            if isinstance(value, DictConfig):
                found += [f"{name}.{key}" for key in keys(value)]
    return found


def nearest_keys(key: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the keys whose ends are most like `key`; the most alike comes first."""

    def likeness(candidate: str) -> tuple[float, float]:
        tail = ".".join(candidate.split(".")[-len(key.split(".")) :])
        return SequenceMatcher(None, key, tail).ratio(), SequenceMatcher(
            None, key, candidate
        ).ratio()

    ranked = sorted(((likeness(candidate), candidate) for candidate in known), reverse=True)
    best = ranked[0][0][0] if ranked else 0
    return [name for (tail, _), name in ranked if tail == best >= 0.6][:most]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"The nearest is {close[0]}." if close else "Correct it, or leave it out."
