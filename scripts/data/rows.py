"""Make rows in verl's schema, and write them to a parquet file."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# The same for all data sets: verl puts the rows of several files together, which needs that.
INFO = {
    "index": pa.int64(),
    "split": pa.string(),
    "question_id": pa.string(),
    "subject": pa.string(),
    "difficulty": pa.string(),
    "pass_rate": pa.float64(),
    "unit": pa.string(),
    "answer_type": pa.string(),
    "is_multiple_answer": pa.bool_(),
    "tolerance": pa.string(),
    "platform": pa.string(),
    "contest_date": pa.string(),
}
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(INFO),
    }
)
# Tests of code are megabytes each, and a text column of a row group may hold 2 GiB.
GROUP_ROWS, GROUP_CHARS = 4096, 64 << 20


def make_row(
    data_source: str, ability: str, content: str, ground_truth: str, info: dict[str, Any]
) -> dict[str, Any]:
    """Return a row whose prompt is one user message."""
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": content}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {key: info.get(key) for key in INFO},
    }


def write_parquet(lines: Iterable[bytes], path: Path) -> tuple[int, str]:
    """Write rows given as their canonical lines, a group at a time.

    Returns:
        The number of rows, and the sha256 of their lines: it does not depend on how parquet
        encodes them.
    """
    num_rows, digest = 0, hashlib.sha256()
    with pq.ParquetWriter(path, SCHEMA) as writer:
        group: list[dict[str, Any]] = []
        chars = 0
        for line in lines:
            num_rows += 1
            chars += len(line)
            digest.update(line)
            group.append(json.loads(line))
            if len(group) >= GROUP_ROWS or chars >= GROUP_CHARS:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group, chars = [], 0
        writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return num_rows, digest.hexdigest()
