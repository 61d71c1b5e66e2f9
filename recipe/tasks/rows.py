"""Read the rows of a data file, check verl's schema, and hash their contents."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recipe.base.errors import UserError

COLUMNS = ("data_source", "prompt", "reward_model")


def check_file(path: Path, key: str, data_root: str) -> None:
    """Refuse a missing data file; under `data_root`, scripts.prepare_data makes it."""
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
    """Return the rows of one parquet file, each in verl's schema."""
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
    """Return the hash of a parquet file's rows, independent of parquet's encoding."""
    digest = hashlib.sha256()
    for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            digest.update(canonical(row))
    return digest.hexdigest()


def canonical(row: dict[str, Any]) -> bytes:
    """Return the line of JSON that a row is hashed as: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: a text is none, such as half of a surrogate pair.
    """
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def problems(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (column, problem) for each column of a row that is not in verl's schema."""
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
