"""Check what a run is validated on."""

from pathlib import Path

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.config.data import data_files
from recipe.tasks import task as tasks
from recipe.tasks.task import samples_by_source


def check_validation(config: DictConfig) -> None:
    """What is validated on are the tasks as they are evaluated, or none of them.

    Raises:
        UserError: it is something between.
    """
    names = config.data.get("val_tasks") or []
    samples_by_source(names)
    if not names:
        return
    if config.actor_rollout_ref.rollout.val_kwargs.n != 1:
        raise UserError(
            f"actor_rollout_ref.rollout.val_kwargs.n is set, but data.val_tasks={list(names)} says "
            f"how many samples a problem gets. Remove it, or validate on files that are no tasks: "
            f"data.val_tasks=[] data.val_files=..."
        )
    if data_files(config, "val_files") != list(map(Path, tasks.files(names, config.data_root))):
        raise UserError(
            f"data.val_files are not the files of data.val_tasks={list(names)}. Add "
            f"data.val_tasks=[] to validate on other files, or leave out data.val_files."
        )
    for name in names:
        tasks.load(tasks.find(name), config.data_root)
