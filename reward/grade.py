"""Grade rows of JSON Lines with the training reward.

    python -m reward.grade IN.jsonl --out OUT.jsonl
    python -m reward.grade outputs/rollouts/12.jsonl --out again.jsonl --data-source math_dapo

A row has `response` and `ground_truth` (or `tests`, for code). It may name its `data_source`.
verl's rollout dumps work too: there the fields are `output` and `gts`. The output keeps the order
of the rows and adds `score`, `outcome`, `extracted`, `seconds` and `error` to each. A line that
cannot be read gets no score, and the command then ends with exit code 1.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from recipe.base.command import command_parser
from recipe.base.errors import UserError
from recipe.base.progress import progress
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from reward.errors import RewardError
from reward.grader import Grader, Outcome, Row, Verdict, parse_tests, read_truth
from reward.sources import ANY, CODE, RewardSettings, Source

RESPONSES = ("response", "output")
TRUTHS = ("ground_truth", "gts")
INVALID = "invalid_row"
OUTCOMES = (*get_args(Outcome), INVALID)

Fields = dict[str, Any]


class Summary:
    """Count the rows of each outcome, and add up their scores and seconds."""

    def __init__(self) -> None:
        self.rows = Counter[str]()
        self.seconds = defaultdict[str, float](float)
        self.score = 0.0
        self.first_error = ""

    def add_invalid(self, error: str) -> None:
        """Count a line that cannot be read."""
        self.rows[INVALID] += 1
        self.first_error = self.first_error or error

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self.rows[verdict.outcome] += 1
        self.seconds[verdict.outcome] += verdict.seconds
        self.score += verdict.score

    @property
    def total(self) -> int:
        """Return the number of rows."""
        return self.rows.total()

    @property
    def mean(self) -> float:
        """Return the mean score of the rows that have one."""
        return self.score / max(1, self.total - self.rows[INVALID])

    def record(self) -> dict[str, Any]:
        """Return the numbers of the table by name."""
        return {"rows": self.total, "mean_score": self.mean, **self.rows}

    def table(self) -> list[str]:
        """Return the lines of a table of outcomes, and a line with the mean score."""
        lines = [
            (
                outcome,
                str(self.rows[outcome]),
                f"{self.rows[outcome] / max(1, self.total):.1%}",
                f"{1000 * self.seconds[outcome] / max(1, self.rows[outcome]):.2f}",
            )
            for outcome in OUTCOMES
        ]
        mean = f"mean score {self.mean:+.4f}"
        return [*markdown_table(("outcome", "rows", "share", "ms each"), lines), mean]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = command_parser("reward.grade", __doc__)
    add = command.add_argument
    add("rows", type=Path, metavar="IN.jsonl", help="rows to grade")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="OUT.jsonl",
        help="graded rows",
    )
    add("--data-source", help="for rows that name none (default: any form of answer)")
    add("--workers", type=int, default=2, help="processes that run at the same time (default: 2)")
    add(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a reward setting, e.g. deadline=1 or thinking=require",
    )
    return command


def read_settings(workers: int, pairs: list[str]) -> RewardSettings:
    """Return the reward settings of the command line.

    Raises:
        UserError: a name is unknown or a value is not allowed.
    """
    settings: dict[str, Any] = {"workers": workers}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    try:
        return RewardSettings.of(settings)
    except ValueError as error:
        raise UserError(str(error)) from None


def read_line(line: bytes, default: str | None, settings: RewardSettings) -> tuple[Fields, Row]:
    """Return the fields of a line, and the row for the grader.

    Raises:
        ValueError: the line is not a row, or a field is missing or cannot be read.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"a row must be a JSON object, not {type(fields).__name__}")
    return fields, read_row(fields, default, settings)


def read_row(fields: Fields, default: str | None, settings: RewardSettings) -> Row:
    """Return the row for the grader.

    Raises:
        ValueError: a field is missing or cannot be read.
    """
    response = next((fields[name] for name in RESPONSES if name in fields), None)
    if not isinstance(response, str):
        raise ValueError(f"no text in {' or '.join(RESPONSES)}; its fields are {', '.join(fields)}")
    if "tests" in fields:
        tests = fields["tests"]
        truth, source = tests if isinstance(tests, str) else json.dumps(tests), CODE
    else:
        truth = next((fields[name] for name in TRUTHS if fields.get(name) is not None), "")
        truth = str(truth) if isinstance(truth, int | float) else truth
        if not isinstance(truth, str):
            raise ValueError(f"ground truth is {truth!r:.80}; it must be a text or a number")
        name = fields.get("data_source", default)
        source = ANY if name is None else settings.find(name)
    if isinstance(source, Source):  # fail now, not after hours
        (read_truth if source.forms else parse_tests)(truth)
    return Row(response, truth, source, fields)


def grade_file(rows: Path, out: Path, default: str | None, settings: RewardSettings) -> Summary:
    """Grade a file and write the graded rows to `out`.

    A line that cannot be read keeps its place. It gets no score, and `error` begins FILE:LINE. If
    the command is interrupted or fails, the rows graded so far are in OUT.jsonl.partial.

    Raises:
        RewardError: the machinery failed.
    """
    partial = out.with_name(out.name + ".partial")
    begun: deque[tuple[Fields, bool]] = deque()  # fields, and whether a verdict will follow
    summary = Summary()
    with (
        closing(Grader(settings)) as grader,
        progress(total=rows.stat().st_size, unit="B", unit_scale=True, desc=rows.name) as bar,
        rows.open("rb") as lines,
        partial.open("w", encoding="utf-8") as file,
    ):

        def tasks() -> Iterator[Row]:
            for number, line in enumerate(lines, start=1):
                bar.update(len(line))
                if not line.strip():
                    continue
                try:
                    fields, row = read_line(line, default, settings)
                except (RecursionError, TypeError, ValueError) as error:
                    text = line.decode(errors="replace").strip()
                    begun.append((invalid(text, f"{rows}:{number}: {error}"), False))
                    continue
                begun.append((fields, True))
                yield row

        def write_invalid() -> None:
            while begun and not begun[0][1]:
                fields, _ = begun.popleft()
                file.write(json.dumps(fields) + "\n")
                summary.add_invalid(fields["error"])

        for verdict in grader.grade_many(tasks()):
            write_invalid()
            found = verdict._asdict()
            fields = {**begun.popleft()[0], **found.pop("extra"), **found}
            file.write(json.dumps(fields) + "\n")
            summary.add(verdict)
        write_invalid()
    partial.replace(out)
    return summary


def invalid(text: str, error: str) -> Fields:
    """Return the output fields of a line that cannot be read."""
    try:
        fields = json.loads(text)
    except (RecursionError, ValueError):
        fields = None
    given = fields if isinstance(fields, dict) else {"line": text}
    found = {"outcome": INVALID, "score": None, "extracted": None, "seconds": 0.0, "error": error}
    return {**given, **found}


def main(arguments: list[str] | None = None) -> int:
    """Grade a file and print the summary; return the exit code, 0 if every row has a score."""
    options = parser().parse_args(arguments)
    start = time.perf_counter()
    try:
        if not options.rows.is_file():
            raise UserError(f"{options.rows} is not a file. Give a file of JSON Lines.")
        settings = read_settings(options.workers, options.setting)
        summary = grade_file(options.rows, options.out, options.data_source, settings)
    except (UserError, RewardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    print("\n".join(summary.table()))
    record = {**summary.record(), "seconds": seconds, **provenance("reward.grade")}
    note = options.out.with_name(options.out.name + ".summary.json")
    note.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{summary.total} rows in {seconds:.1f} s: {options.out}, {note}")
    if summary.first_error:
        print(
            f"error: {summary.rows[INVALID]} rows could not be read and have no score; the first: "
            f"{summary.first_error}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
