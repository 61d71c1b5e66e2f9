"""Load tables: parquet, CSV, JSONL, and JSON, as W&B exports its tables."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from recipe.analysis.readers.verl import first_row
from recipe.base.errors import UserError

SUFFIXES = (".parquet", ".csv", ".jsonl", ".json")
# A row of a CSV file must fit into a block.
BLOCK_BYTES = 1 << 26


def column_names(path: Path) -> list[str]:
    """Return the columns of a table; none if the file is no table."""
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_schema(path).names
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                return next(csv.reader(file), [])
        if path.suffix == ".jsonl":
            return list(first_row(path) or [])
        if path.suffix == ".json":
            rows = json_rows(path)
            return list(rows[0]) if rows else []
    except (OSError, ValueError, csv.Error, pa.ArrowException):
        pass
    return []


def load_table(path: Path) -> Iterator[Any]:
    """Yield the rows of a table; a row of JSONL that is no JSON object comes as its text.

    Raises:
        UserError: the file is no table.
    """
    try:
        if path.suffix == ".parquet":
            yield from pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            yield from csv_rows(path)
        elif path.suffix == ".json":
            yield from json_rows(path)
        elif path.suffix == ".jsonl":
            with path.open("rb") as file:
                for line in file:
                    yield json_or_text(line)
        else:
            raise ValueError(f"its name ends in {path.suffix or 'no suffix'}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read as a table ({error}). Give a file that ends in "
            f"{', '.join(SUFFIXES)}."
        ) from None


def csv_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file, with numbers as numbers."""
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    ).to_pylist()


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a list of objects, or of a table of W&B (`columns` and `data`).

    Raises:
        ValueError: the file is neither.
    """
    content = json.loads(path.read_bytes())
    if isinstance(content, Mapping) and {"columns", "data"} <= content.keys():
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    if isinstance(content, list) and all(isinstance(row, Mapping) for row in content):
        return content
    raise ValueError("it is neither a list of objects nor a table with columns and data")


def json_or_text(line: bytes) -> Any:
    """Return a line's value, or the line itself if it is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return line.decode(errors="replace")


def text_of(value: Any) -> str:
    """Return a text as it is, and the contents of a list of chat messages joined."""
    if isinstance(value, list):
        return "".join(text_of(message["content"]) for message in value)
    if value is None:
        raise ValueError("an empty cell where a text is needed")
    return str(value)


def key_of(value: Any) -> str:
    """Return what equal values share and others do not."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
