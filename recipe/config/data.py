"""Data files: they are there, in verl's schema row by row, and can be rewarded; and their hash."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.base.errors import UserError
from recipe.tasks.rows import check_file, read_rows
from reward.grader import parse_tests, read_truth
from reward.sources import RewardSettings, Source


def check_data(config: DictConfig) -> None:
    """Every data file is there, every row is in verl's schema and has a reward.

    Raises:
        UserError: the first row, or file, that is not so.
    """
    all_rows: list[dict[str, Any]] = []
    for key, wanted in (("train_files", config.data.train_batch_size), ("val_files", 1)):
        files = data_files(config, key)
        for path in files:
            check_file(path, f"data.{key}", config.data_root)
        rows = [row for path in files for row in read_rows(path, f"data.{key}")]
        if len(rows) < wanted:
            raise UserError(
                f"data.{key} holds {len(rows)} rows, but a step takes {wanted} prompts. Give more "
                f"data, or lower data.train_batch_size."
            )
        all_rows += rows
    check_rewards(config, all_rows)


def data_files(config: DictConfig, key: str) -> list[Path]:
    """The files that `data.train_files` or `data.val_files` names: one, or a list."""
    files = config.data[key]
    names = files if isinstance(files, ListConfig | list) else [files]
    return [Path(str(name)).expanduser() for name in names]


def check_rewards(config: DictConfig, rows: Iterable[dict[str, Any]]) -> None:
    """The project's reward function knows every data source and can read every ground truth.

    Raises:
        UserError: the first row, or setting, that is not so.
    """
    if not is_this_projects(config):
        return
    given = OmegaConf.to_container(config.reward.custom_reward_function.reward_kwargs)
    try:
        settings = RewardSettings.of(cast("dict[str, Any]", given))
    except (TypeError, ValueError) as error:
        raise UserError(f"the reward refuses its settings: {error}") from None
    check_truths(settings, rows)


def check_truths(settings: RewardSettings, rows: Iterable[dict[str, Any]]) -> None:
    """The grader knows the data source of each row and can read its ground truth.

    Raises:
        UserError: the first row that is not so.
    """
    try:
        for row in rows:
            source = settings.find(row["data_source"])
            if isinstance(source, Source):
                (read_truth if source.forms else parse_tests)(row["reward_model"]["ground_truth"])
    except (TypeError, ValueError) as error:
        raise UserError(f"the reward refuses the data: {error}") from None


def is_this_projects(config: DictConfig) -> bool:
    """Whether a run is rewarded by `reward/`, not by a reward function of somebody else's."""
    return config.reward.custom_reward_function.path == "pkg://reward.score"
