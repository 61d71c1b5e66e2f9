"""Arrange results in rows by experiment and cells by method, each of seeds x steps x tasks.

A mean never covers only the results that happen to exist: a cell knows its missing results.
Results that differ in their settings are never in one table.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eval.tables.results import Result
from recipe.maths.rules import RULES
from recipe.tasks.at_k import Floats

# Stands in place of a method for a model of another origin.
NO_METHOD = "-"
# Settings that all results of a task in one table share; models may differ in the others.
ALIKE = (
    "task_version",
    "sampling.samples",
    "sampling.temperature",
    "sampling.top_p",
    "template",
    "data.sha256",
    "data.problems",
    "reward",
    "seed",
)
OF_A_MODEL = ("sampling.max_tokens", "chat_template")


class Place(NamedTuple):
    """The place of a result in its row."""

    method: str
    seed: int
    step: int
    task: str


@dataclass(frozen=True, eq=False)
class TableRow:
    """The runs of one experiment with the same overrides, or a model of another origin."""

    name: str
    experiment: str | None
    """None for a model of another origin."""
    tasks: tuple[str, ...]
    """The table's tasks, including those that this row lacks."""
    results: dict[Place, Result]

    @property
    def methods(self) -> list[str]:
        """Return the methods of this row, in the order of tables."""
        return ordered({place.method for place in self.results})

    @property
    def steps(self) -> list[int]:
        """Return all steps at which a run of the row was evaluated."""
        return sorted({place.step for place in self.results})

    @property
    def last_step(self) -> int:
        """Return the last step, which every run must have."""
        return self.steps[-1]

    def seeds(self, method: str) -> list[int]:
        """Return the seeds of a method with any result."""
        return sorted({place.seed for place in self.results if place.method == method})

    def missing(self, method: str, steps: Sequence[int], tasks: Sequence[str] = ()) -> list[Place]:
        """Return the missing places of a method's seeds at these steps and tasks (default: all)."""
        places = [
            Place(method, seed, step, task)
            for seed in self.seeds(method)
            for step in steps
            for task in tasks or self.tasks
        ]
        return [place for place in places if place not in self.results]

    def found(
        self, method: str, seeds: Sequence[int], step: int, tasks: Sequence[str] = ()
    ) -> list[list[Result]]:
        """Return results by task and seed; none may be missing."""
        return [
            [self.results[Place(method, seed, step, task)] for seed in seeds]
            for task in tasks or self.tasks
        ]

    def scores(
        self, method: str, seeds: Sequence[int], step: int, tasks: Sequence[str] = ()
    ) -> list[Floats]:
        """Return scores of seeds x problems, by task."""
        return [
            np.stack([result.value_P for result in results])
            for results in self.found(method, seeds, step, tasks)
        ]


def arrange(results: Sequence[Result], tasks: Sequence[str] = ()) -> list[TableRow]:
    """Return the rows of a table of these tasks (default: all), runs before other models.

    Raises:
        ValueError: a task has no result, or results that meet were not made alike.
    """
    known = sorted({result.task for result in results})
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise ValueError(
            f"no result is of {', '.join(unknown)}; there are {', '.join(known)}. Choose among "
            f"these with --tasks, or evaluate it."
        )
    tasks = tuple(dict.fromkeys(tasks or known))
    kept = [result for result in results if result.task in tasks]
    check_alike(kept, ALIKE)
    by_name: dict[tuple[bool, str], dict[Place, Result]] = defaultdict(dict)
    for result in kept:
        run = result.run
        place = (
            Place(run.method, run.seed, run.step, result.task)
            if run
            else Place(NO_METHOD, 0, 0, result.task)
        )
        by_name[(run is None, run.row if run else result.model)][place] = result
    rows = []
    for (_, name), placed in sorted(by_name.items()):
        check_alike(placed.values(), OF_A_MODEL)
        run = next(iter(placed.values())).run
        rows.append(TableRow(name, run.experiment if run else None, tasks, placed))
    return rows


def check_alike(results: Iterable[Result], keys: Sequence[str]) -> None:
    """Refuse results of one task that differ in how they were made.

    Raises:
        ValueError: there are, with two files, the key and its values.
    """
    first: dict[str, Result] = {}
    for result in results:
        for key in keys:
            refuse(first.setdefault(result.task, result), result, key)


def refuse(one: Result, other: Result, key: str) -> None:
    """Refuse two results that differ in a dotted key, or in one below it.

    Raises:
        ValueError: they do.
    """
    first, second = (dict(leaves(value_at(result, key), key)) for result in (one, other))
    for name in first | second:
        values = [
            json.dumps(found[name]) if name in found else "not set" for found in (first, second)
        ]
        if values[0] != values[1]:
            raise ValueError(
                f"{one.file} and {other.file} cannot stand in one table: {name} of {one.task} is "
                f"{values[0]} in the first and {values[1]} in the second. Evaluate one of them "
                f"again with the other's {name}, or make a table of each."
            )


def value_at(result: Result, key: str) -> Any:
    """Return the value of a result under a dotted key."""
    value: Any = result.content
    for name in key.split("."):
        value = value[name]
    return value


def model_settings(rows: Sequence[TableRow]) -> list[str]:
    """Return in words the allowed settings in which rows differ."""
    said = []
    for task in rows[0].tasks:
        for key in OF_A_MODEL:
            names: dict[str, list[str]] = defaultdict(list)
            for row in rows:
                found = next((r for r in row.results.values() if r.task == task), None)
                if found:
                    names[json.dumps(value_at(found, key))].append(row.name)
            if len(names) > 1:
                values = "; ".join(f"{value} of {', '.join(of)}" for value, of in names.items())
                said.append(f"{task}, {key}: {values}.")
    return said


def sampling_settings(rows: Sequence[TableRow], task: str) -> list[str]:
    """Return in words how the results of a task at the last step were sampled, each way once."""
    ways = set()
    for row in rows:
        for place, result in row.results.items():
            if place.task != task or place.step != row.last_step:
                continue
            found = result.evaluation
            template, sampling = found.template, found.sampling
            asked = f"{template.name} {template.version}" if template else "the data's own"
            ways.add(
                f"{task} version {found.task_version}, {found.data.problems} problems (sha256 "
                f"{found.data.sha256[:12]}): {sampling.samples} samples at temperature "
                f"{sampling.temperature}, top_p {sampling.top_p}, at most {sampling.max_tokens} "
                f"tokens; template {asked}."
            )
    return sorted(ways)


def ordered(methods: Iterable[str]) -> list[str]:
    """Return methods in the order of this project's rules, then others by name."""
    found = set(methods)
    return [rule for rule in RULES if rule in found] + sorted(found - set(RULES))


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values below a value."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from leaves(below, f"{key}.{name}")
    else:
        yield key, value


def in_words(row: TableRow, places: Sequence[Place]) -> str:
    """Return missing results in words, grouped by seeds, steps and tasks."""
    if row.experiment is None:
        return f"{row.name}: {' '.join(place.task for place in places)}"
    tasks_at: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for place in places:
        tasks_at[place[:3]].append(place.task)
    steps_of: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for (method, seed, step), tasks in tasks_at.items():
        steps_of[(method, seed, " ".join(tasks))].append(step)
    seeds_of: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (method, seed, tasks), steps in steps_of.items():
        seeds_of[(method, counted("step", steps), tasks)].append(seed)
    return "; ".join(
        f"{row.name}, {method}, {counted('seed', seeds)}, {steps}: {tasks}"
        for (method, steps, tasks), seeds in seeds_of.items()
    )


def counted(name: str, numbers: Sequence[int]) -> str:
    """Return `seed 0` or `seeds 0 1`."""
    return f"{name}{'s' * (len(numbers) > 1)} {' '.join(map(str, numbers))}"


def commit_notes(results: Iterable[Result]) -> tuple[str, ...]:
    """Return notes on the commits that made the results and their runs."""
    kept = list(results)
    made = {
        "sampled": {session.commit for result in kept for session in result.evaluation.sampled},
        "graded": {result.evaluation.commit for result in kept},
        # A run that was resumed names the commit of each start.
        "trained": {
            commit
            for result in kept
            if result.run
            for commit in (result.run.commit or "unknown").split(", ")
        },
    }
    notes = []
    for verb, commits in made.items():
        names = sorted(commit or "unknown" for commit in commits)
        if len(names) > 1:
            notes.append(f"{verb} by different commits: {', '.join(names)}")
        elif any(name == "unknown" or name.endswith("-dirty") for name in names):
            notes.append(f"{verb} by code that no commit holds: {names[0]}")
    return tuple(notes)
