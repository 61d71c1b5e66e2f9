"""Compose the config of a command line with Hydra, and resolve its interpolations."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS, ROOT
from recipe.config.hydra_errors import WRONG_OVERRIDES, explanation
from recipe.config.numbers import check_integers
from recipe.tasks import embedded
from recipe.tasks import task as tasks

OmegaConf.register_new_resolver("made", embedded.folder, replace=True)
OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver(
    "task_files", lambda names, root: ListConfig(tasks.files(names, root)), replace=True
)
OmegaConf.register_new_resolver("task_setting", tasks.shared, replace=True)
OmegaConf.register_new_resolver("sum", lambda *numbers: sum(numbers), replace=True)
OmegaConf.register_new_resolver("part", lambda number, of: number // of, replace=True)


def composed(overrides: list[str]) -> DictConfig:
    """Return the config of these overrides, as `recipe.main` composes it.

    Raises:
        UserError: the overrides name an option or a key that does not exist.
    """
    try:
        return hydra_compose(overrides)
    except WRONG_OVERRIDES as error:
        raise UserError(explanation(error, overrides, hydra_compose)) from None


def resolve(config: DictConfig) -> None:
    """Replace interpolations by their values, after checking the numbers that they add up.

    Raises:
        UserError: a number is none, or an interpolation names a key that does not exist.
    """
    try:
        check_integers(config)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error).splitlines()[0].strip(" .")
        raise UserError(
            f"a value of the config cannot be worked out: {reason}. Choose what it comes from: "
            f"model=... data=... cluster=..., or +experiment=NAME with all of them."
        ) from None


def hydra_compose(overrides: list[str]) -> DictConfig:
    """Return the config of these overrides; errors are Hydra's own."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("base", overrides)
