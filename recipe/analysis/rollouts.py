"""Hold the responses of a run as numbers, whatever framework wrote them. Axis: `_N` responses."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from recipe.base.errors import UserError

# Texts that a tokenizer counts at once.
BATCH = 4096


class Lengths(NamedTuple):
    """Say where the length of a response comes from."""

    column: str
    """Column with the length, or with the text to measure."""
    unit: str
    """Name what is counted."""
    of_texts: Callable[[Sequence[str]], Sequence[int]] | None = None
    """Lengths of a column of texts; None for a column of numbers."""
    warning: str | None = None
    """Why the lengths may mislead."""


class Rollouts(NamedTuple):
    """Hold the responses of a run in the order read, without padding rows."""

    step_N: np.ndarray
    group_N: np.ndarray
    """Number of the group, from 0; groups of different steps are different."""
    sample_N: np.ndarray
    """Number of the sample within its group; only multi-turn runs have several rows of one."""
    output_N: np.ndarray
    """Which of the sample's outputs the row is; the last one has the score that counts."""
    score_N: np.ndarray
    """NaN where the dump has advantages and no single score."""
    length_N: np.ndarray
    lengths: Lengths
    grouped_by: str
    """Name the column or the rule that makes groups."""
    num_padding: int = 0
    num_bad: int = 0
    advantage_N: np.ndarray | None = None
    """The advantages that the run trained with; None if the dump does not have them."""
    notes: tuple[str, ...] = ()
    """Tell a reader of the report what to know about the dump, in sentences."""


class Options(NamedTuple):
    """Hold what the user said about a dump."""

    tokenizer: str | None = None
    length_column: str | None = None
    columns: Mapping[str, str] = {}
    """Name of a column of the dump for `prompt`, `response`, `reward` and so on."""
    skip_bad: bool = False


class Reader(Protocol):
    """Read the dumps of one framework."""

    name: str
    """Name the format as `--format` takes it."""
    writes: str
    """Name the files and the setting that fills them, for messages."""
    default_rule: str
    """The rule that the framework trains with if nothing is set."""

    def files(self, folder: Path) -> list[Path]:
        """Return the files of a folder that may be such dumps, in the order of steps."""
        ...

    def detects(self, path: Path) -> bool:
        """Return whether a file is such a dump."""
        ...

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read all files.

        Raises:
            UserError: they or the options cannot be used.
        """
        ...


class Response(NamedTuple):
    """Hold one response of a dump, which is one sample of its prompt."""

    step: int
    group: Hashable
    """What responses to one prompt share within a step."""
    size: float | str
    """Its tokens, or the text to count."""
    score: float = math.nan
    advantage: float | None = None


class Collector:
    """Collect responses row by row; stop at a row that cannot be used, or count it."""

    def __init__(self, *, skip_bad: bool) -> None:
        """Count bad rows in `num_bad` if they are skipped."""
        self.skip_bad, self.num_bad = skip_bad, 0
        self.responses: list[Response] = []

    def add(
        self, path: Path, rows: Iterable[Any], convert: Callable[[Any], Iterable[Response]]
    ) -> None:
        """Convert the rows of a file.

        Raises:
            UserError: a row cannot be used, unless bad rows are skipped.
        """
        for number, row in enumerate(rows, start=1):
            try:
                self.responses += [checked(response) for response in convert(row)]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                if not self.skip_bad:
                    what = f"no {error}" if isinstance(error, KeyError) else str(error)
                    raise UserError(
                        f"{path}, row {number}: found a row that cannot be used ({what}). Correct "
                        f"it, or use --skip-bad to go on without such rows."
                    ) from None
                self.num_bad += 1

    def rollouts(
        self, lengths: Lengths, grouped_by: str, notes: Sequence[str] = (), num_padding: int = 0
    ) -> Rollouts:
        """Return what was collected.

        Raises:
            UserError: nothing was, or some responses have neither score nor advantage.
        """
        rows = self.responses
        if not rows:
            raise UserError(f"no response is left: {self.num_bad} bad rows, and no other rows.")
        advantages = [row.advantage for row in rows if row.advantage is not None]
        has_advantages = len(advantages) == len(rows)
        numbers: dict[tuple[int, Hashable], int] = {}
        group_N = [numbers.setdefault((row.step, row.group), len(numbers)) for row in rows]
        score_N = np.array([row.score for row in rows], dtype=float)
        if not has_advantages and np.isnan(score_N).any():
            raise UserError(
                f"{len(rows) - len(advantages)} of {len(rows)} responses have no advantage, and no "
                f"score to compute it from. Give dumps of one run, or name a column of scores with "
                f"--columns reward=NAME."
            )
        return Rollouts(
            step_N=np.array([row.step for row in rows]),
            group_N=np.array(group_N),
            sample_N=np.arange(len(rows)),
            output_N=np.zeros(len(rows), int),
            score_N=score_N,
            length_N=np.array(sizes([row.size for row in rows], lengths), dtype=np.int64),
            lengths=lengths,
            grouped_by=grouped_by,
            num_padding=num_padding,
            num_bad=self.num_bad,
            advantage_N=np.array(advantages, dtype=float) if has_advantages else None,
            notes=tuple(notes),
        )


def checked(response: Response) -> Response:
    """Return the response.

    Raises:
        ValueError: a number of it cannot be used.
    """
    if response.advantage is None and not math.isfinite(response.score):
        raise ValueError(f"the score {response.score}, and no advantage")
    if response.advantage is not None and not math.isfinite(response.advantage):
        raise ValueError(f"the advantage {response.advantage}")
    size = response.size
    if not isinstance(size, str) and not (size >= 0 and float(size).is_integer()):
        raise ValueError(f"the length {size}")
    return response


def sizes(column: Sequence[Any], lengths: Lengths) -> Sequence[int]:
    """Return the lengths of a column of counts or texts."""
    if lengths.of_texts is None:
        return [int(size) for size in column]
    found: list[int] = []
    for begin in range(0, len(column), BATCH):
        found += lengths.of_texts(column[begin : begin + BATCH])
    return found
