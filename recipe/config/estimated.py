"""Compose a config for an estimate, with every number checked that the estimates read."""

from omegaconf import DictConfig

from recipe.config.batches import check_micro_batches
from recipe.config.compose import composed, resolve
from recipe.config.numbers import check_estimated


def estimated(overrides: list[str]) -> DictConfig:
    """Return the resolved config of these overrides, with its numbers checked.

    Raises:
        UserError: it cannot be composed or resolved, or a number is not allowed.
    """
    config = composed(overrides)
    resolve(config)
    check_estimated(config)
    check_micro_batches(config)
    return config
