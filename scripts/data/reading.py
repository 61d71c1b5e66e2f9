"""Read rows of parquet, Arrow, JSON Lines and JSON files, a batch at a time."""

import json
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from recipe.base.errors import UserError
from recipe.base.progress import progress

KINDS = (".parquet", ".arrow", ".jsonl", ".json")
BATCH_ROWS, BATCH_BYTES = 4096, 32 << 20

Fields = dict[str, Any]


class Record(NamedTuple):
    """Hold an input row: its file, its number over all files, and its fields or its error."""

    file: Path
    index: int
    fields: Fields | None
    error: str = ""


def data_files(source: Path, pattern: str = "*") -> list[Path]:
    """Return the source itself, or the files of a folder whose path matches the pattern.

    Raises:
        UserError: there is none.
    """
    if source.is_file():
        if source.suffix not in KINDS:
            raise UserError(
                f"{source} is no data file. Give a file that ends in {', '.join(KINDS)}, or a "
                f"folder of such files."
            )
        return [source]
    found = [path for path in sorted(source.rglob("*")) if path.suffix in KINDS]
    fitting = [path for path in found if path.relative_to(source).match(pattern)]
    if not fitting:
        names = ", ".join(str(path.relative_to(source)) for path in found[:10]) or "none"
        raise UserError(
            f"{source} holds no data file that fits {pattern!r}; there are: {names}. Give a folder "
            f"of {', '.join(KINDS)}, or choose with --files PATTERN."
        )
    return fitting


def read_records(
    files: Iterable[Path], columns: list[str] | None = None
) -> Generator[Record, None, None]:
    """Yield the rows of files in order, with a progress bar.

    At most 32 MiB of a parquet file are unpacked at once, and one line of JSON Lines; a JSON file
    that is one list is read at once. A line that is no JSON object gives a record with an error.

    Args:
        files: parquet, Arrow as `datasets` writes it, JSON Lines or JSON.
        columns: of parquet files, read these alone.

    Raises:
        UserError: a file cannot be read.
    """
    files = list(files)
    index = 0
    size = sum(path.stat().st_size for path in files)
    with progress(total=size, unit="B", unit_scale=True, desc="reading") as bar:
        for path in files:
            try:
                if path.suffix == ".parquet":
                    rows = _parquet(path, columns, bar)
                else:
                    rows = _arrow(path, bar) if path.suffix == ".arrow" else _json(path, bar)
                for fields, error in rows:
                    yield Record(path, index, fields, error)
                    index += 1
            except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
                raise UserError(
                    f"{path} cannot be read: {error}. Check that it is complete, or fetch it again."
                ) from None


def _parquet(path: Path, columns: list[str] | None, bar: tqdm) -> Iterator[tuple[Fields, str]]:
    with pq.ParquetFile(path) as file:
        found = file.metadata
        if columns and (missing := set(columns) - set(file.schema_arrow.names)):
            raise UserError(
                f"{path} has no column {', '.join(sorted(missing))}; found "
                f"{', '.join(file.schema_arrow.names)}. Give a file in verl's schema."
            )
        unpacked = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
        batch_rows = min(BATCH_ROWS, BATCH_BYTES * found.num_rows // max(1, unpacked))
        for batch in file.iter_batches(max(1, batch_rows), columns=columns):
            for fields in batch.to_pylist():
                yield fields, ""
            bar.update(path.stat().st_size * batch.num_rows / max(1, found.num_rows))


def _arrow(path: Path, bar: tqdm) -> Iterator[tuple[Fields, str]]:
    # datasets keeps streams in its cache, and `save_to_disk` does too.
    with path.open("rb") as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            for fields in batch.to_pylist():
                yield fields, ""
            bar.update(file.tell() - bar.n)


def _json(path: Path, bar: tqdm) -> Iterator[tuple[Fields | None, str]]:
    with path.open("rb") as file:
        if path.suffix == ".json" and file.read(256).lstrip().startswith(b"["):
            try:
                rows = json.loads(path.read_bytes())
            except (RecursionError, ValueError) as error:
                raise UserError(f"{path} is no JSON: {error}. Repair it.") from None
            for row in rows:
                yield _object(row)
            bar.update(path.stat().st_size)
            return
        file.seek(0)
        for line in file:
            bar.update(len(line))
            if line.strip():
                try:
                    yield _object(json.loads(line))
                except (RecursionError, ValueError) as error:
                    yield None, f"the line is no JSON: {error}"


def _object(row: Any) -> tuple[Fields | None, str]:
    if isinstance(row, dict):
        return row, ""
    return None, f"the row is a JSON {type(row).__name__}, not an object"
