"""Define a refusal: a key, when its value is refused, and why."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError


class Refusal(NamedTuple):
    """Hold one reason to refuse a config."""

    key: str
    """The key, as a person sets it. The message shows the key's value if there is one."""
    when: Callable[[DictConfig], Any]
    """Return whether a config is refused."""
    reason: str
    fix: str = "Remove that override."


def refuse(config: DictConfig, refusals: Iterable[Refusal], beside: str = "") -> None:
    """Raise UserError for the first refusal that holds.

    Args:
        config: the resolved config.
        refusals: what is refused.
        beside: the option beside which it is refused; empty if it always is.
    """
    for key, when, reason, fix in refusals:
        if when(config):
            value = OmegaConf.select(config, key)
            shown = "is set" if isinstance(value, DictConfig) else f"is {in_yaml(value)}"
            other = f" and does not go with {beside}" if beside else ""
            raise UserError(f"{key} {shown}{other}: {reason}. {fix}")


def in_yaml(value: object) -> object:
    """Return a value as a person writes it in a config."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else value
