"""Reduce input rows to one row per prompt: check, count and leave out, with the reasons.

Two passes. `gather` reads the input once and writes each new prompt's row to a file at hand, so
what it holds in memory grows with the number of different prompts alone. `choose` then knows which
prompts had conflicting answers or overlap with an evaluation set, and goes over that file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from recipe.base.errors import UserError
from recipe.tasks.rows import canonical, problems
from recipe.tasks.templates import Template, bare, prompt_content
from reward.grader import parse_tests, read_truth
from reward.math.equality import same
from scripts.data.catalogue import DataSet, accepted
from scripts.data.layouts import OutOfSet, Problem, is_chinese
from scripts.data.overlap import EvaluationSets
from scripts.data.reading import Fields, Record
from scripts.data.rows import make_row

# By name in the manifest, what each count is of; those of rows add up to `rows_read`, those of
# prompts to `prompts`.
STAGES = {
    "rows_read": "rows read",
    "rows_malformed": "malformed rows",
    "rows_out_of_set": "rows that are not of this set",
    "rows_without_difficulty": "rows without a difficulty for --max-pass-rate",
    "rows_unreadable_truth": "rows whose ground truth the grader cannot read",
    "rows_repeated": "further copies of a prompt",
    "prompts": "different prompts",
    "prompts_filtered": "prompts left out by an option",
    "prompts_conflicting": "prompts with conflicting answers",
    "prompts_overlapping": "prompts removed for overlap",
    "prompts_written": "prompts written",
}
LONGEST_EXCERPT = 200


@dataclass(frozen=True)
class Filters:
    """Hold which prompts are wanted: `language` is all, en (no Chinese character) or zh.

    The lowest pass rate of a prompt's copies may be at most `max_pass_rate`; a contest's day lies
    between the dates, ends included.
    """

    language: str = "all"
    max_pass_rate: float | None = None
    from_date: str | None = None
    to_date: str | None = None

    def wants(self, problem: Problem) -> bool:
        """Return whether a problem's language and day are wanted; its first copy decides."""
        day = problem.info.get("contest_date")
        if (self.from_date or self.to_date) and day is None:
            return False
        if self.language != "all" and is_chinese(problem.given) != (self.language == "zh"):
            return False
        return (self.from_date or "") <= (day or "") and (day or "") <= (self.to_date or "~")

    def is_too_easy(self, pass_rate: float | None) -> bool:
        """Return whether the pass rate of a prompt is above `max_pass_rate`."""
        if self.max_pass_rate is None or pass_rate is None:
            return False
        return pass_rate > self.max_pass_rate


class NoDifficulty(ValueError):
    """Signal a row without the pass rate that a filter needs."""


# The stage that drops a row, by the type of its error. Any other error means a malformed row.
STAGE_OF = {OutOfSet: "rows_out_of_set", NoDifficulty: "rows_without_difficulty"}


@dataclass
class Prompt:
    """Hold a prompt as first seen, the count of each of its answers, and what it shares.

    `pass_rate` is the lowest of its copies; `harder` is what a later copy of lower pass rate puts
    in the place of the first one's.
    """

    index: int
    answers: Counter[str]
    pass_rate: float | None = None
    harder: dict[str, Any] = field(default_factory=dict)
    is_too_easy: bool = False
    has_conflict: bool = False
    shared: set[str] = field(default_factory=set)


class Dropped:
    """Write what is left out, and why, as one line of JSON each."""

    def __init__(self, file: TextIO, counts: Counter[str]) -> None:
        self._file = file
        self._counts = counts

    def add(self, stage: str, index: int, why: str, problem: str = "", **more: Any) -> None:
        """List a row under the stage that dropped it, and count it there."""
        self._counts[stage] += 1
        line = {"index": index, "reason": stage.partition("_")[2], "detail": why, **more}
        self._file.write(json.dumps({**line, "problem": problem[:LONGEST_EXCERPT]}) + "\n")


class Selection:
    """Reduce the rows of a data set to one per prompt; `counts` says what became of them."""

    def __init__(
        self,
        data_set: DataSet,
        template: Template,
        filters: Filters,
        evaluation: EvaluationSets,
        dropped: TextIO,
    ) -> None:
        self.data_set = data_set
        self.template = template
        self.filters = filters
        self.evaluation = evaluation
        self.counts = Counter[str](dict.fromkeys(STAGES, 0))
        self.num_tolerances = 0
        self._dropped = Dropped(dropped, self.counts)

    def gather(self, records: Iterable[Record], rows: BinaryIO) -> list[Prompt]:
        """Read all rows, and write that of each prompt's first copy.

        Raises:
            UserError: a file has none of the set's layouts, or cannot be read.
        """
        seen: dict[bytes, Prompt | None] = {}
        known_files: set[Path] = set()
        for record in records:
            self.counts["rows_read"] += 1
            fields, problem = record.fields, None
            try:
                if fields is None:
                    raise ValueError(record.error)
                problem = self._read(fields, record.file, known_files)
                text = " ".join(bare(problem.given).split())
                if not text:
                    raise ValueError("the prompt holds a template and no problem")
                rate = problem.info.get("pass_rate")
                if rate is None and self.filters.max_pass_rate is not None:
                    raise NoDifficulty(
                        "the row has no difficulty; the published JSON Lines have it"
                    )
                key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                if key in seen:
                    self._repeat(seen[key], problem, fields, record.index)
                elif self.filters.wants(problem):
                    if row := self._row(problem, fields, record.index):
                        rows.write(canonical(row))
                        shared = self.evaluation.shared(text)
                        first = Counter([problem.answer])
                        seen[key] = Prompt(record.index, first, rate, shared=shared)
                else:
                    seen[key] = None
                    self.counts["prompts_filtered"] += 1
            except UserError:
                raise
            except ValueError as error:
                stage = STAGE_OF.get(type(error), "rows_malformed")
                given = problem.given if problem else ""
                self._dropped.add(stage, record.index, str(error), given, file=record.file.name)
        self.counts["prompts"] = len(seen)
        prompts = [prompt for prompt in seen.values() if prompt]
        for prompt in prompts:
            prompt.is_too_easy = self.filters.is_too_easy(prompt.pass_rate)
            self.counts["prompts_filtered"] += prompt.is_too_easy
        return prompts

    def choose(
        self, prompts: list[Prompt], rows: Iterable[bytes], remove: Mapping[int, dict[str, str]]
    ) -> Iterator[bytes]:
        """Yield the rows that stay, of those that `gather` wrote.

        Args:
            prompts: what `gather` returned.
            rows: what it wrote, in the same order.
            remove: the rows that overlap, by number, with what they share.
        """
        for prompt, line in zip(prompts, rows, strict=True):
            if prompt.is_too_easy:
                continue
            if prompt.has_conflict or prompt.index in remove:
                row = json.loads(line)
                text = bare(row["prompt"][0]["content"])
                if prompt.has_conflict:
                    why, more = "copies of it have different answers", {"answers": prompt.answers}
                    self._dropped.add("prompts_conflicting", prompt.index, why, text, **more)
                else:
                    why, more = "shares words with", {"shared": remove[prompt.index]}
                    self._dropped.add("prompts_overlapping", prompt.index, why, text, **more)
                continue
            self.counts["prompts_written"] += 1
            self.num_tolerances += b'"tolerance":null' not in line
            yield _with_info(line, prompt.harder) if prompt.harder else line

    def _read(self, fields: Fields, file: Path, known_files: set[Path]) -> Problem:
        layout = self.data_set.layout(fields)
        if layout is None:
            found, wanted = ", ".join(map(str, fields)) or "none", accepted(self.data_set)
            if file in known_files:
                raise ValueError(f"the columns are {found}, expected {wanted}")
            raise UserError(
                f"{file} has the columns {found}, but this data set is read from {wanted}. Check "
                f"that --source is that data set, or rename its columns."
            )
        known_files.add(file)
        return layout.read(fields)

    def _row(self, problem: Problem, fields: Fields, index: int) -> dict[str, Any] | None:
        """Return the row of a new prompt, or None if its ground truth cannot be read."""
        truth = self._truth(problem, fields, index)
        if truth is None:
            return None
        content = prompt_content(problem.given, self.template)
        info = {"index": index, "split": self.data_set.split, **problem.info}
        ability = "code" if self.data_set.tests else "math"
        row = make_row(self.data_set.data_source, ability, content, truth, info)
        for column, found in problems(row):
            raise ValueError(f"{column}: {found}")
        return row

    def _truth(self, problem: Problem, fields: Fields, index: int) -> str | None:
        """Return the ground truth if the grader can read it; otherwise drop the row."""
        try:
            if self.data_set.tests:
                truth = self.data_set.tests(fields)
                parse_tests(truth)
            else:
                truth = problem.answer
                read_truth(truth)
        except ValueError as error:
            self._dropped.add("rows_unreadable_truth", index, str(error), problem.given)
            return None
        return truth

    def _repeat(self, first: Prompt | None, problem: Problem, fields: Fields, index: int) -> None:
        """Count a further copy of a prompt, compare its answer, and note a lower pass rate."""
        if first and problem.answer not in first.answers:
            if self._truth(problem, fields, index) is None:
                return
            agreed = next(iter(first.answers))
            first.has_conflict |= bool(self.data_set.tests) or not _agree(problem.answer, agreed)
        if first:
            first.answers[problem.answer] += 1
            rate = problem.info.get("pass_rate")
            if rate is not None and (first.pass_rate is None or rate < first.pass_rate):
                first.pass_rate = rate
                first.harder = {key: problem.info[key] for key in ("difficulty", "pass_rate")}
        self.counts["rows_repeated"] += 1


def _with_info(line: bytes, info: dict[str, Any]) -> bytes:
    """Return the line of a row with changed values in its extra_info."""
    row = json.loads(line)
    row["extra_info"] |= info
    return canonical(row)


def _agree(one: str, other: str) -> bool:
    """Return whether the grader takes two ground truths for the same at once."""
    try:
        return same(read_truth(one), read_truth(other)) is True
    except (ArithmeticError, RecursionError, ValueError):
        return False
