"""Compose a config for an estimate, with every number checked that the estimates read."""

from omegaconf import DictConfig

from recipe.config.compose import composed, resolve
from recipe.config.numbers import check_estimated


def estimated(overrides: list[str]) -> DictConfig:
    """The resolved config of these overrides, its numbers checked.

    Raises:
        UserError: it cannot be composed or resolved, or a number is none.
    """
    config = composed(overrides)
    resolve(config)
    check_estimated(config)
    return config
