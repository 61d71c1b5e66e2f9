"""Measure everything that tables show, in one tidy frame: one line for each quantity.

Each line names its table, experiment, method, task, step and quantity. Accuracies are in percent,
differences in points, and lengths in tokens.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from eval.published import RULES as PUBLISHED_RULES
from eval.published import Published
from eval.stats import holm, mean_interval
from eval.tables.estimates import Measured, at_last_step, compare, drop, measure, row_notes
from eval.tables.grid import TableRow
from eval.tables.results import Result
from recipe.tasks.at_k import pass_at_k

MEAN = "mean@k, %"
DIFFERENCE = "difference, points"
CROSSED = "best - last, crossed, points"
PROBABILITIES = ("P(better)", "p", "p (Holm)")
RATES = {
    "truncated": "truncated, %",
    "no_answer": "no answer, %",
    "parse_error": "unreadable, %",
    "timeout": "timeout, %",
}
LENGTHS = {"correct": "correct, tokens", "incorrect": "incorrect, tokens"}


class Measurement(NamedTuple):
    """A line of the frame; a number is None where it is unknown."""

    table: str
    quantity: str
    experiment: str
    method: str
    task: str
    step: int | None
    estimate: float | None
    low: float | None
    high: float | None
    seeds: int | None
    note: str
    footnotes: tuple[str, ...] = ()
    """Those of the notes that belong to the number alone."""

    def single(self, quantity: str, estimate: float | None, scale: float = 100) -> "Measurement":
        """Return another quantity of the same runs, without an interval."""
        value = None if estimate is None else scale * estimate
        return self._replace(quantity=quantity, estimate=value, low=None, high=None)


def measurements(rows: Sequence[TableRow], baseline: str, paper: Published) -> pd.DataFrame:
    """Measure all rows of a table, and compare their methods with the baseline."""
    runs = [row for row in rows if row.experiment is not None]
    lines = [*averages(runs, paper), *differences(runs, baseline), *drops(runs), *by_task(rows)]
    frame = pd.DataFrame(lines, columns=pd.Index(Measurement._fields))
    whole, number = ("step", "seeds"), ("estimate", "low", "high")
    return frame.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(number, "float64")})


def line(
    table: str,
    quantity: str,
    row: TableRow,
    method: str,
    tasks: Sequence[str],
    measured: Measured,
    about: Sequence[str] = (),
) -> Measurement:
    """Return the line of a measured number, with `about` as further notes."""
    found, is_run = measured.interval, row.experiment is not None
    return Measurement(
        table,
        quantity,
        row.name,
        method,
        " ".join(tasks),
        row.last_step if is_run else None,
        100 * found.estimate if found else None,
        100 * found.low if found and measured.varies else None,
        100 * found.high if found and measured.varies else None,
        found.num_seeds if found and is_run else None,
        "; ".join([*measured.notes, *about]),
        measured.notes,
    )


def averages(runs: Sequence[TableRow], paper: Published) -> Iterator[Measurement]:
    """Measure averages over tasks at the last step, each beside what the paper published."""
    for row in runs:
        for method in row.methods:
            measured = measure(row, method)
            yield line("average", MEAN, row, method, row.tasks, measured, row_notes(row))
        # A row with overrides has another name, and was not published.
        for rule in PUBLISHED_RULES if row.name in paper.numbers else ():
            yield Measurement(
                "published",
                f"{paper.quantity}, %",
                row.name,
                rule,
                " ".join(paper.tasks),
                None,
                100 * paper.numbers[row.name][rule],
                None,
                None,
                None,
                f"{paper.source}, {paper.read}",
            )


def differences(runs: Sequence[TableRow], baseline: str) -> Iterator[Measurement]:
    """Compare every method with the baseline within its row, with Holm's p over all of them."""
    pairs = [
        (row, method, compare(row, method, baseline))
        for row in runs
        if baseline in row.methods
        for method in row.methods
        if method != baseline
    ]
    known = [found.interval for *_, found in pairs if found.interval and found.varies]
    adjusted = iter(holm([interval.p_value for interval in known]))
    for row, method, found in pairs:
        label = f"{method} - {baseline}"
        main = line("difference", DIFFERENCE, row, label, row.tasks, found)
        yield main
        values: tuple[float | None, ...] = (None, None, None)
        if found.interval and found.varies:
            interval = found.interval
            values = (interval.probability_positive, interval.p_value, next(adjusted))
        for quantity, value in zip(PROBABILITIES, values, strict=True):
            yield main.single(quantity, value, 1)


def drops(runs: Sequence[TableRow]) -> Iterator[Measurement]:
    """Measure best and last step, for rows of several steps."""
    for row in runs:
        for method in row.methods if len(row.steps) > 1 else ():
            found = drop(row, method)
            main = line("stability", CROSSED, row, method, row.tasks, found.crossed)
            yield main
            if found.best is None or found.last is None:
                continue
            yield main.single("best, %", found.best)
            yield main.single("last, %", found.last)
            yield main.single("best - last, points", found.best - found.last)
            for seed, step in zip(row.seeds(method), found.steps, strict=True):
                yield main.single(f"best step of seed {seed}", step, 1)._replace(seeds=1)


def by_task(rows: Sequence[TableRow]) -> Iterator[Measurement]:
    """Measure every method on each task at the last step."""
    tasks = rows[0].tasks
    lines = [(row, method) for row in rows for method in row.methods]
    found = {
        (row, method, of): measure(row, method, of)
        for row, method in lines
        for of in {tasks, *((task,) for task in tasks)}
    }
    if len(tasks) > 1:
        for row, method in lines:
            for of in (*((task,) for task in tasks), tasks):
                yield line("tasks", MEAN, row, method, of, found[row, method, of])
    for task in tasks:
        for row, method in lines:
            measured = found[row, method, (task,)]
            main = line(f"task {task}", MEAN, row, method, (task,), measured)
            if measured.interval is None:
                yield main
            else:
                yield from on_task(main, at_last_step(row, method, (task,)))


def on_task(main: Measurement, results: Sequence[Result]) -> Iterator[Measurement]:
    """Measure the quantities of a task, given its mean and one result for each seed."""
    samples = results[0].num_samples
    yield main._replace(quantity=f"mean@{samples}, %")
    found = mean_interval([pass_at_k(r.correct_P, samples, samples) for r in results])
    estimate, low, high = (100 * value for value in found[:3])
    yield main._replace(quantity=f"pass@{samples}, %", estimate=estimate, low=low, high=high)
    evaluations = [result.evaluation for result in results]
    voted = [
        {int(key[4:]) for key, value in e.metrics.items() if is_majority(key) and value is not None}
        for e in evaluations
    ]
    # The largest k that all results have.
    k = max(set.intersection(*voted), default=None)
    majority = None if k is None else mean([e.metrics[f"maj@{k}"] for e in evaluations])
    yield main.single(f"maj@{'k' if k is None else k}, %", majority)
    for key, name in RATES.items():
        yield main.single(name, mean([getattr(e.rates, key) for e in evaluations]))
    for key, name in LENGTHS.items():
        yield main.single(name, mean([getattr(e.length, key) for e in evaluations]), 1)


def is_majority(metric: str) -> bool:
    """Return whether a metric is maj@k."""
    return re.fullmatch(r"maj@\d+", metric) is not None


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean over seeds; None if a seed has no value."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
