"""Data files: they are there, in verl's schema row by row, and can be rewarded; and their hash."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.errors import UserError
from recipe.rewards import is_this_projects
from reward.grader import parse_tests, read_truth
from reward.sources import RewardSettings, Source

COLUMNS = ("data_source", "prompt", "reward_model")


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


def check_file(path: Path, key: str, data_root: str) -> None:
    """A data file is there; under `data_root` it is one that scripts.prepare_data makes."""
    if path.is_file():
        return
    make = "Check the path, or make the data."
    if path.parent == Path(data_root).expanduser():
        make = (
            f"Make it with `python -m scripts.prepare_data {path.stem} "
            f"--out {data_root}`, or name another folder as data_root."
        )
    raise UserError(f"{key} names {path}, which is not a file. {make}")


def read_rows(path: Path, key: str) -> list[dict[str, Any]]:
    """The rows of one parquet file, each in verl's schema."""
    try:
        names = pq.read_schema(path).names
        wanted = [column for column in (*COLUMNS, "extra_info") if column in names]
        table = pq.read_table(path, columns=wanted)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} ({key}) cannot be read as parquet: {error}") from None
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise UserError(
            f"{path} ({key}) has no column {', '.join(missing)}; found "
            f"{', '.join(names)}. verl's schema needs {', '.join(COLUMNS)}."
        )
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        for column, problem in problems(row):
            raise UserError(f"{path} ({key}), row {number}, column {column}: {problem}")
    return rows


def content_sha256(path: Path) -> str:
    """The hash of a parquet file's rows as canonical lines: not of how parquet encodes them."""
    digest = hashlib.sha256()
    for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            digest.update(canonical(row))
    return digest.hexdigest()


def canonical(row: dict[str, Any]) -> bytes:
    """The one line of JSON that a row is hashed as: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a text is none, such as half of a surrogate pair.
    """
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def problems(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(column, what is wrong) for each column of a row that is not in verl's schema."""
    if not isinstance(row["data_source"], str):
        yield "data_source", f"found {row['data_source']!r}, expected a string"
    prompt = row["prompt"]
    messages = prompt if isinstance(prompt, list) else []
    if not messages or not all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    ):
        yield "prompt", f"found {prompt!r:.80}, expected a list of {{role, content}} messages"
    reward = row["reward_model"]
    truth = reward.get("ground_truth") if isinstance(reward, dict) else None
    if not isinstance(truth, str) or not truth.strip():
        yield "reward_model", f"ground_truth is {truth!r}, expected a string that is not empty"
