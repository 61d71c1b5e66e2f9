"""The grid of results: rows by experiment, cells by rule, in them seeds x steps x tasks.

Nothing is averaged over what happens to be there: a cell knows what it lacks, and results that were
not made alike cannot meet in a row.
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

# What a model that is no run of ours has in place of a rule.
NO_RULE = "-"
# What results of a task must share to stand in one table, and what models may differ in.
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
    """Where a result stands in its row."""

    rule: str
    seed: int
    step: int
    task: str


@dataclass(frozen=True, eq=False)
class Row:
    """The runs of one experiment with the same overrides, or a model that is no run of ours."""

    name: str
    experiment: str | None
    """None of a model that is no run."""
    tasks: tuple[str, ...]
    """The table's, whether this row has them or not."""
    results: dict[Place, Result]

    @property
    def rules(self) -> list[str]:
        """In the order in which this project names them, others after that."""
        found = {place.rule for place in self.results}
        return [rule for rule in RULES if rule in found] + sorted(found - set(RULES))

    @property
    def steps(self) -> list[int]:
        """Every step that some run of the row was evaluated at."""
        return sorted({place.step for place in self.results})

    @property
    def last_step(self) -> int:
        """The last of them: every run must have it."""
        return self.steps[-1]

    def seeds(self, rule: str) -> list[int]:
        """Seeds of a rule with any result."""
        return sorted({place.seed for place in self.results if place.rule == rule})

    def missing(self, rule: str, steps: Sequence[int], tasks: Sequence[str] = ()) -> list[Place]:
        """What a rule's seeds lack of these steps and tasks (all of the table)."""
        places = [
            Place(rule, seed, step, task)
            for seed in self.seeds(rule)
            for step in steps
            for task in tasks or self.tasks
        ]
        return [place for place in places if place not in self.results]

    def found(
        self, rule: str, seeds: Sequence[int], step: int, tasks: Sequence[str] = ()
    ) -> list[list[Result]]:
        """Results by task and seed, of which none is missing."""
        return [
            [self.results[Place(rule, seed, step, task)] for seed in seeds]
            for task in tasks or self.tasks
        ]

    def scores(
        self, rule: str, seeds: Sequence[int], step: int, tasks: Sequence[str] = ()
    ) -> list[Floats]:
        """Scores of seeds x problems, by task."""
        return [
            np.stack([result.value_P for result in results])
            for results in self.found(rule, seeds, step, tasks)
        ]


def arrange(results: Sequence[Result], tasks: Sequence[str] = ()) -> list[Row]:
    """The rows of a table of these tasks (all that there are), runs before other models.

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
            Place(run.rule, run.seed, run.step, result.task)
            if run
            else Place(NO_RULE, 0, 0, result.task)
        )
        by_name[(run is None, run.row if run else result.model)][place] = result
    rows = []
    for (_, name), placed in sorted(by_name.items()):
        check_alike(placed.values(), OF_A_MODEL)
        run = next(iter(placed.values())).run
        rows.append(Row(name, run.experiment if run else None, tasks, placed))
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
    """What a result holds under a dotted key."""
    value: Any = result.content
    for name in key.split("."):
        value = value[name]
    return value


def model_settings(rows: Sequence[Row]) -> list[str]:
    """In words, what rows were allowed to differ in and do."""
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


def leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values below a value."""
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from leaves(below, f"{key}.{name}")
    else:
        yield key, value


def in_words(row: Row, places: Sequence[Place]) -> str:
    """Missing results, with seeds, steps and tasks that go together taken together."""
    if row.experiment is None:
        return f"{row.name}: {' '.join(place.task for place in places)}"
    tasks_at: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for place in places:
        tasks_at[place[:3]].append(place.task)
    steps_of: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for (rule, seed, step), tasks in tasks_at.items():
        steps_of[(rule, seed, " ".join(tasks))].append(step)
    seeds_of: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (rule, seed, tasks), steps in steps_of.items():
        seeds_of[(rule, counted("step", steps), tasks)].append(seed)
    return "; ".join(
        f"{row.name}, {rule}, {counted('seed', seeds)}, {steps}: {tasks}"
        for (rule, steps, tasks), seeds in seeds_of.items()
    )


def counted(name: str, numbers: Sequence[int]) -> str:
    """`seed 0`, `seeds 0 1`."""
    return f"{name}{'s' * (len(numbers) > 1)} {' '.join(map(str, numbers))}"


def commit_notes(results: Iterable[Result]) -> tuple[str, ...]:
    """What is to say about the commits that results and their runs were made by."""
    kept = list(results)
    made = {
        "sampled": {session["commit"] for result in kept for session in result.content["sampled"]},
        "graded": {result.content["commit"] for result in kept},
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
