"""What was measured on each task, of every rule and of models that are no runs of ours."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from eval.stats import mean_interval
from eval.tables.by_rule import METHOD
from eval.tables.cells import at_last_step, measure
from eval.tables.grid import NO_RULE, Row, model_settings
from eval.tables.numbers import mean_cell, record, with_interval, with_remarks
from eval.tables.printed import Cell, Table, plain
from eval.tables.results import Result
from recipe.tasks.at_k import pass_at_k

RATES = {
    "truncated": "truncated, %",
    "no_answer": "no answer, %",
    "parse_error": "unreadable, %",
    "timeout": "timeout, %",
}
LENGTHS = {"correct": "right, tokens", "incorrect": "wrong, tokens"}
TASK_HEAD = (
    "experiment or model",
    "rule",
    "step",
    "mean@k",
    "k",
    "pass@k",
    "maj@k",
    *RATES.values(),
    *LENGTHS.values(),
)


class Quantity(NamedTuple):
    """A number of a task, in the unit that its name says."""

    name: str
    value: float | None
    text: str
    low: float | None = None
    high: float | None = None


def tasks_table(rows: Sequence[Row]) -> Table:
    """Every rule's mean on each task, and their average."""
    name, quantity, tasks = "tasks", "mean@k, %", rows[0].tasks
    lines, records = [], []
    for row, rule in each(rows):
        line = labels(row, rule)
        for of in (*((task,) for task in tasks), tasks):
            measured = measure(row, rule, of)
            line.append(mean_cell(measured, row.experiment is not None))
            records.append(record(name, quantity, row, rule, of, measured))
        lines.append(tuple(line))
    return with_remarks(
        Table(
            name,
            "Every task at the last step: mean@k in percent [95 % interval] (seeds)",
            plain(("experiment or model", "rule", "step", *tasks, "average")),
            tuple(lines),
            tuple(records),
            (METHOD, of_models(rows), *model_settings(rows)),
        )
    )


def task_table(rows: Sequence[Row], task: str) -> Table:
    """One task: means, what k samples reach, and how responses end."""
    name = f"task {task}"
    lines, records, found = [], [], []
    for row, rule in each(rows):
        measured = measure(row, rule, (task,))
        entry = record(name, "mean@k, %", row, rule, (task,), measured)
        line = [*labels(row, rule), mean_cell(measured, row.experiment is not None)]
        if measured.interval is None:
            records.append(entry)
            lines.append((*line, *plain("-" * (len(TASK_HEAD) - len(line)))))
            continue
        results = at_last_step(row, rule, (task,))
        found += results
        further = beside_mean(results)
        records.append(entry._replace(quantity=f"mean@{results[0].num_samples}, %"))
        records += [
            entry._replace(quantity=one.name, estimate=one.value, low=one.low, high=one.high)
            for one in further
        ]
        k = str(results[0].num_samples)
        lines.append((*line, *plain([k, *(one.text for one in further)])))
    return with_remarks(
        Table(
            name,
            f"{task} at the last step: mean@k in percent [95 % interval] (seeds)",
            plain(TASK_HEAD),
            tuple(lines),
            tuple(records),
            (
                METHOD,
                of_models(rows),
                "k samples a problem. pass@k: at least one of them right; maj@k: their most "
                "frequent answer right, without an interval. Rates are of all samples, tokens the "
                "mean lengths of right and wrong ones; all are means over seeds.",
                *model_settings(rows),
                *made(found),
            ),
        )
    )


def beside_mean(results: Sequence[Result]) -> list[Quantity]:
    """The quantities of a task beside its mean, of one result a seed."""
    samples = results[0].num_samples
    found = mean_interval([pass_at_k(r.correct_P, samples, samples) for r in results])
    passed = Quantity(
        f"pass@{samples}, %",
        100 * found.estimate,
        with_interval(found, ".1f"),
        100 * found.low,
        100 * found.high,
    )
    quantities = [passed, majority(results)]
    for group, keys, scale, digits in (("rates", RATES, 100, 1), ("length", LENGTHS, 1, 0)):
        for key, name in keys.items():
            value = of_all(results, group, key, scale)
            quantities.append(Quantity(name, value, shown(value, digits)))
    return quantities


def majority(results: Sequence[Result]) -> Quantity:
    """The metric maj@k with the largest k that all results have."""
    ks = set.intersection(
        *(
            {
                int(key[4:])
                for key, value in result.content["metrics"].items()
                if re.fullmatch(r"maj@\d+", key) and value is not None
            }
            for result in results
        )
    )
    if not ks:
        return Quantity("maj@k, %", None, "-")
    k = max(ks)
    value = of_all(results, "metrics", f"maj@{k}", 100)
    other = "" if k == results[0].num_samples else f" (k = {k})"
    return Quantity(f"maj@{k}, %", value, shown(value) + other)


def each(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """Every row of a table by task."""
    return list(
        chain.from_iterable(
            [(row, rule) for rule in (row.rules if row.experiment else [NO_RULE])] for row in rows
        )
    )


def labels(row: Row, rule: str) -> list[Cell]:
    """What a line begins with."""
    return list(plain((row.name, rule, str(row.last_step) if row.experiment else "-")))


def of_models(rows: Sequence[Row]) -> str:
    """Which lines are no runs."""
    models = [row.name for row in rows if row.experiment is None]
    if not models:
        return "Every line is of runs of this project."
    return f"No runs of ours, intervals over problems alone: {', '.join(models)}."


def of_all(results: Sequence[Result], group: str, key: str, scale: float = 1) -> float | None:
    """Mean over seeds of a value, None if some seed has none."""
    values = [result.content[group][key] for result in results]
    if any(value is None for value in values):
        return None
    return scale * sum(values) / len(values)


def shown(value: float | None, digits: int = 1) -> str:
    """A mean."""
    return "-" if value is None else f"{value:.{digits}f}"


def made(results: Sequence[Result]) -> tuple[str, ...]:
    """How the results of a task came about, each way once."""
    ways = set()
    for result in results:
        content, sampling = result.content, result.content["sampling"]
        template = content["template"] or {"name": "the data's own", "version": ""}
        ways.add(
            f"{result.task} version {content['task_version']}, {content['data']['problems']} "
            f"problems (sha256 {content['data']['sha256'][:12]}): {sampling['samples']} samples at "
            f"temperature {sampling['temperature']}, top_p {sampling['top_p']}, at most "
            f"{sampling['max_tokens']} tokens; template "
            f"{template['name']} {template['version']}".rstrip()
            + "."
        )
    return tuple(sorted(ways))
