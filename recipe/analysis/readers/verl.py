"""Read verl's rollout dumps as numbers.

With `trainer.rollout_data_dir` set, verl writes one JSONL file a step, a response a line, with its
`input`, `output`, `score`, `step` and, since version 1 of its trainer, `uid`: the prompt's id, then
`_SAMPLE_OUTPUT`. Files are read as a stream, and of a row only numbers stay in memory.
Axis: `_N` the responses.
"""

import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from recipe.analysis.rollouts import Lengths, Options, Rollouts
from recipe.analysis.token_counts import choose_lengths
from recipe.base.errors import UserError
from recipe.base.progress import progress

CHUNK_BYTES = 1 << 23
# How verl names the rows it adds to make the train batch divisible.
PADDING = re.compile(r"pad[0-9a-f]{32}")
UID = re.compile(r"(.+)_(\d{1,18})_(\d{1,18})", re.ASCII | re.DOTALL)
COUNT = msgspec.Meta(ge=0, le=2**53)


class Verl:
    """Read what verl writes with `trainer.rollout_data_dir=FOLDER`."""

    name = "verl"
    writes = "*.jsonl in the folder of trainer.rollout_data_dir"
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return the `*.jsonl` of the folder, numbered files in order."""
        return sorted(folder.glob("*.jsonl"), key=lambda file: (len(file.stem), file.stem))

    def detects(self, path: Path) -> bool:
        """Return whether the first row has verl's columns."""
        row = first_row(path) if path.suffix == ".jsonl" else None
        return row is not None and {"input", "output", "score"} <= row.keys()

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read all files as a stream.

        Raises:
            UserError: they hold no response, or see `read_dumps`.
        """
        row = next(filter(None, map(first_row, files)), None)
        if row is None:
            names = ", ".join(map(str, files[:3])) + ", ..." * (len(files) > 3)
            raise UserError(
                f"no response was found in {names}. A rollout dump has one JSON object a line."
            )
        lengths = choose_lengths(row, options.length_column, options.tokenizer)
        return read_dumps(files, "uid" in row, lengths, skip_bad=options.skip_bad)


def first_row(path: Path) -> dict[str, Any] | None:
    """Return the first line that is a JSON object; it shows which columns the dump has."""
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                return row
    return None


def read_dumps(
    files: Sequence[Path], has_uid: bool, lengths: Lengths, *, skip_bad: bool = False
) -> Rollouts:
    """Read all files.

    Responses without a uid are grouped by step and input text.

    Raises:
        UserError: a line cannot be used (`FILE:LINE: ...`), unless bad lines are skipped; a step
            is in two files; nothing is left.
    """
    rows = RowReader("uid" if has_uid else "input", lengths, skip_bad=skip_bad)
    columns = Columns(has_uid=has_uid)
    file_of_step: dict[int, Path] = {}
    with progress(
        total=sum(path.stat().st_size for path in files),
        unit="B",
        unit_scale=True,
        desc="reading",
    ) as bar:
        for path in files:
            columns.steps.clear()
            for batch, num_bytes in rows.batches(path):
                for row, length in zip(batch, measured(batch, lengths), strict=True):
                    columns.add(row, length)
                bar.update(num_bytes)
            for step in columns.steps:
                if step in file_of_step:
                    raise UserError(
                        f"step {step} is in {file_of_step[step]} and in {path}, but a step is one "
                        f"train batch in one file. Give the dumps of one run."
                    )
                file_of_step[step] = path
    if not columns.step_N:
        raise UserError(
            f"no response is left: {rows.num_bad} bad lines and {columns.num_padding} padding rows."
        )
    return Rollouts(
        step_N=np.array(columns.step_N),
        group_N=np.array(columns.group_N),
        sample_N=np.array(columns.sample_N),
        output_N=np.array(columns.output_N),
        score_N=np.array(columns.score_N),
        length_N=np.array(columns.length_N),
        lengths=lengths,
        grouped_by=rows.key,
        num_padding=columns.num_padding,
        num_bad=rows.num_bad,
        notes=tuple(notes_on(columns)),
    )


def notes_on(columns: "Columns") -> Iterator[str]:
    """Yield what the dump lacks, or has that other dumps do not."""
    if not columns.has_uid:
        yield (
            "The dump has no uid: groups are the responses of a step with the same input text, so "
            "two prompts with the same text are one group."
        )
    if any(columns.output_N):
        yield (
            "Samples have several outputs: each is a response here, with the advantage of the "
            "sample's last one, as in verl."
        )


class Columns:
    """Collect the columns of `Rollouts`; keep only the ids of the groups, not their texts."""

    def __init__(self, *, has_uid: bool) -> None:
        """Group by uid, or by step and input text if there is no uid."""
        self.has_uid = has_uid
        self.step_N, self.group_N = array("q"), array("q")
        self.sample_N, self.output_N = array("q"), array("q")
        self.score_N, self.length_N = array("d"), array("q")
        self.num_padding = self.num_groups = 0
        self.steps: dict[int, dict[Any, int]] = {}
        """Number of each group by the prompt's id, by step."""

    def add(self, row: Any, length: int) -> None:
        """Add a row, unless it is padding."""
        if self.has_uid:
            prompt, sample, output = split_uid(row.key)
            if PADDING.fullmatch(prompt):
                self.num_padding += 1
                return
        else:
            # Inputs are long: a hash tells one from another.
            prompt, sample, output = hash(row.key), None, 0
        groups = self.steps.setdefault(row.step, {})
        if prompt not in groups:
            groups[prompt] = self.num_groups
            self.num_groups += 1
        self.step_N.append(row.step)
        self.group_N.append(groups[prompt])
        # Without a number of its own, each row is a sample.
        self.sample_N.append(len(self.sample_N) if sample is None else sample)
        self.output_N.append(output)
        self.score_N.append(row.score)
        self.length_N.append(length)


def split_uid(uid: str) -> tuple[str, int | None, int]:
    """Split `PROMPT_SAMPLE_OUTPUT` into prompt id, sample and output; or return the id alone."""
    parts = UID.fullmatch(uid)
    return (parts[1], int(parts[2]), int(parts[3])) if parts else (uid, None, 0)


def measured(batch: list[Any], lengths: Lengths) -> Sequence[int]:
    """Return the length of each row of a batch."""
    sizes = [row.size for row in batch]
    return lengths.of_texts(sizes) if lengths.of_texts else [int(size) for size in sizes]


class RowReader:
    """Decode lines into rows of four fields: `score`, `step`, `key` (of the group), `size`."""

    def __init__(self, key: str, lengths: Lengths, *, skip_bad: bool) -> None:
        """Read groups from the column `key`.

        Args:
            key: name of the column.
            lengths: says which column is the size.
            skip_bad: count bad lines in `num_bad` instead of stopping at the first.
        """
        self.key, self.skip_bad, self.num_bad = key, skip_bad, 0
        size_type = str if lengths.of_texts else Annotated[float, COUNT]
        # Columns that are not fields are skipped over, not decoded: outputs are long.
        self.row_type = msgspec.defstruct(
            "Row",
            [("score", float), ("step", Annotated[int, COUNT]), ("key", str), ("size", size_type)],
            rename={"key": key, "size": lengths.column},
        )
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.row_type)
        size = "text" if lengths.of_texts else "a count"
        self.expected = (
            f"a JSON object with score (a finite number), step (an integer), {key} (text) and "
            f"{lengths.column} ({size})"
        )

    def batches(self, path: Path) -> Iterator[tuple[list[Any], int]]:
        """Yield rows of a file in batches, each with the bytes of its lines.

        Raises:
            UserError: a line is bad.
        """
        batch, num_bytes = [], 0
        with path.open("rb", buffering=CHUNK_BYTES) as file:
            for number, line in enumerate(file, start=1):
                num_bytes += len(line)
                try:
                    batch.append(self.row(line))
                except ValueError as error:
                    if not self.skip_bad:
                        raise UserError(
                            f"{path}:{number}: found {error}; expected {self.expected}. "
                            f"Use --skip-bad to go on without such lines."
                        ) from None
                    self.num_bad += 1
                if num_bytes >= CHUNK_BYTES:
                    yield batch, num_bytes
                    batch, num_bytes = [], 0
        yield batch, num_bytes

    def row(self, line: bytes) -> Any:
        """Decode a line.

        Raises:
            ValueError: what is wrong with it, as words that follow "found".
        """
        try:
            row = self.decoder.decode(line)
        except msgspec.ValidationError as error:
            raise ValueError(f"a row with a wrong column ({error})") from None
        except msgspec.DecodeError as error:
            row = self.python_row(line, error)
        if not math.isfinite(row.score):
            raise ValueError(f"the score {row.score}")
        if isinstance(row.size, float) and not row.size.is_integer():
            raise ValueError(f"the length {row.size}")
        return row

    def python_row(self, line: bytes, error: msgspec.DecodeError) -> Any:
        """Decode a line with NaN or Infinity, which JSON forbids but Python writes."""
        try:
            return msgspec.convert(json.loads(line), self.row_type)
        except msgspec.ValidationError as wrong:
            raise ValueError(f"a row with a wrong column ({wrong})") from None
        except ValueError:
            raise ValueError(f"a line that is no JSON ({error})") from None
