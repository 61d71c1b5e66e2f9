"""Check the data of a run: files, verl's schema row by row, ground truths, and validation tasks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from recipe.base.errors import UserError
from recipe.config.settings import Settings
from recipe.tasks import task as tasks
from recipe.tasks.rows import check_file, read_rows
from reward.grader import parse_tests, read_truth
from reward.sources import RewardSettings, Source


def check_data(config: DictConfig, settings: Settings) -> None:
    """Check that every data file exists, fits verl's schema and can be rewarded.

    Raises:
        UserError: the first file or row that does not.
    """
    all_rows: list[dict[str, Any]] = []
    for key, wanted in (("train_files", config.data.train_batch_size), ("val_files", 1)):
        files = data_files(config, key)
        for path in files:
            check_file(path, f"data.{key}", settings.data_root)
        rows = [row for path in files for row in read_rows(path, f"data.{key}")]
        if len(rows) < wanted:
            raise UserError(
                f"data.{key} holds {len(rows)} rows, but a step takes {wanted} prompts. Give more "
                f"data, or lower data.train_batch_size."
            )
        all_rows += rows
    if settings.reward is not None:
        check_truths(settings.reward, all_rows)
    check_validation(config, settings)


def data_files(config: DictConfig, key: str) -> list[Path]:
    """Return the files of `data.train_files` or `data.val_files`, which is one file or a list."""
    files = config.data[key]
    names = files if isinstance(files, ListConfig | list) else [files]
    return [Path(str(name)).expanduser() for name in names]


def check_truths(settings: RewardSettings, rows: Iterable[dict[str, Any]]) -> None:
    """Check that the grader knows each row's data source and can read its ground truth.

    Raises:
        UserError: the first row for which it does not.
    """
    try:
        for row in rows:
            source = settings.find(row["data_source"])
            if isinstance(source, Source):
                (read_truth if source.forms else parse_tests)(row["reward_model"]["ground_truth"])
    except (TypeError, ValueError) as error:
        raise UserError(f"the reward refuses the data: {error}") from None


def check_validation(config: DictConfig, settings: Settings) -> None:
    """Check that a run is validated on tasks as they are evaluated, or on no task at all.

    Raises:
        UserError: it mixes both.
    """
    names = list(settings.val_tasks)
    tasks.samples_by_source(names)
    if not names:
        return
    if config.actor_rollout_ref.rollout.val_kwargs.n != 1:
        raise UserError(
            f"actor_rollout_ref.rollout.val_kwargs.n is set, but data.val_tasks={names} says how "
            f"many samples a problem gets. Remove it, or validate on files without a task: "
            f"data.val_tasks=[] data.val_files=..."
        )
    if data_files(config, "val_files") != list(map(Path, tasks.files(names, settings.data_root))):
        raise UserError(
            f"data.val_files are not the files of data.val_tasks={names}. Add data.val_tasks=[] to "
            f"validate on other files, or leave out data.val_files."
        )
    for name in names:
        tasks.load(tasks.find(name), settings.data_root)
