"""Estimate means, differences and drops, or note why there is none.

Axes: `_S` training seeds, `_P` problems.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.stats import Interval, mean_interval, paired_interval
from eval.tables.grid import NO_METHOD, Place, TableRow, commit_notes, counted, in_words
from eval.tables.results import Result
from recipe.tasks.at_k import Floats

ONE_SEED = (
    "one seed: the interval is over problems alone and says nothing about the noise of training"
)
UNVARIED = "no interval: it would have width 0, as all values are alike, and that is no certainty"
LAST_IS_BEST = "no step but the last was chosen, so there is no interval"
# Parts of the problems, each judged at a step that the others choose.
FOLDS = 10


class Measured(NamedTuple):
    """Hold a number with its interval (None where results are missing) and its notes."""

    interval: Interval | None
    notes: tuple[str, ...] = ()

    @property
    def varies(self) -> bool:
        """Return whether the values vary; if not, interval and probabilities mean nothing."""
        return self.interval is not None and self.interval.low < self.interval.high


class Drop(NamedTuple):
    """Hold the drop from the best step to the last."""

    steps: tuple[int, ...] = ()
    """The best step of each seed."""
    best: float | None = None
    """Mean over seeds of the highest of the evaluated steps: too high."""
    last: float | None = None
    crossed: Measured = Measured(None)
    """Drop from a step that was chosen on other problems, with the notes on all numbers."""


def missing_note(
    row: TableRow, method: str, steps: Sequence[int], tasks: Sequence[str] = ()
) -> str:
    """Return a method's missing results in words; empty if there are none."""
    places = row.missing(method, steps, tasks)
    return "missing: " + in_words(row, places) if places else ""


def at_last_step(row: TableRow, method: str, tasks: Sequence[str] = ()) -> list[Result]:
    """Return a method's existing results at the row's last step."""
    places = [
        Place(method, seed, row.last_step, task)
        for seed in row.seeds(method)
        for task in tasks or row.tasks
    ]
    return [row.results[place] for place in places if place in row.results]


def measure(row: TableRow, method: str, tasks: Sequence[str] = ()) -> Measured:
    """Estimate the mean over tasks, seeds and problems at the row's last step."""
    if missing := missing_note(row, method, [row.last_step], tasks):
        return Measured(None, (missing,))
    seeds = row.seeds(method)
    notes = commit_notes(at_last_step(row, method, tasks))
    if method != NO_METHOD and len(seeds) == 1:
        notes = (ONE_SEED, *notes)
    return with_warning(mean_interval(row.scores(method, seeds, row.last_step, tasks)), notes)


def with_warning(interval: Interval, notes: tuple[str, ...]) -> Measured:
    """Return a number, with a note if nothing varies."""
    return Measured(interval, notes if interval.low < interval.high else (UNVARIED, *notes))


def row_notes(row: TableRow) -> tuple[str, ...]:
    """Return the differences between the methods of a row in seeds and commits."""
    notes = commit_notes([r for method in row.methods for r in at_last_step(row, method)])
    methods_of: dict[str, list[str]] = {}
    for method in row.methods:
        methods_of.setdefault(" ".join(map(str, row.seeds(method))), []).append(method)
    if len(methods_of) > 1:
        said = "; ".join(f"{seeds} of {', '.join(names)}" for seeds, names in methods_of.items())
        notes = (f"methods have different seeds: {said}", *notes)
    return notes


def compare(row: TableRow, method: str, baseline: str) -> Measured:
    """Estimate the mean of a method minus that of the baseline at the row's last step.

    The seeds that both have are paired. If they share none, the seeds are independent.
    """
    missing = [missing_note(row, name, [row.last_step]) for name in (method, baseline)]
    if any(missing):
        return Measured(None, tuple(filter(None, missing)))
    seeds = {name: row.seeds(name) for name in (method, baseline)}
    common = [seed for seed in seeds[method] if seed in seeds[baseline]]
    notes = commit_notes([r for name in seeds for r in at_last_step(row, name)])
    has = ", ".join(f"{name} has {counted('seed', found)}" for name, found in seeds.items())
    if not common:
        notes = (f"no seed in common ({has}): seeds are taken as independent", *notes)
    elif seeds[method] != seeds[baseline]:
        notes = (f"over the common {counted('seed', common)} ({has})", *notes)
    first, second = (
        row.scores(name, common or seeds[name], row.last_step) for name in (method, baseline)
    )
    interval = paired_interval(first, second, "paired" if common else "independent")
    if interval.num_seeds == 1:
        notes = (ONE_SEED, *notes)
    return with_warning(interval, notes)


def drop(row: TableRow, method: str) -> Drop:
    """Estimate the drop from the best step of each seed to the last step."""
    if missing := missing_note(row, method, row.steps):
        return Drop(crossed=Measured(None, (missing,)))
    seeds = row.seeds(method)
    results = [row.results[place] for place in row.results if place.method == method]
    notes = commit_notes(results)
    if len(seeds) == 1:
        notes = (ONE_SEED, *notes)
    by_step = [row.scores(method, seeds, step) for step in row.steps]
    mean_by_step_S = np.array([np.mean([t.mean(1) for t in tasks], axis=0) for tasks in by_step])
    best_S = mean_by_step_S.argmax(axis=0)
    drops = crossed_drops(by_step)
    crossed = with_warning(mean_interval(drops), notes)
    if not any(task.any() for task in drops):
        crossed = Measured(crossed.interval, (LAST_IS_BEST, *notes))
    return Drop(
        tuple(row.steps[i] for i in best_S),
        float(mean_by_step_S.max(axis=0).mean()),
        float(mean_by_step_S[-1].mean()),
        crossed,
    )


def crossed_drops(by_step: Sequence[Sequence[Floats]]) -> list[Floats]:
    """Return, for each problem, its score at a chosen step minus its score at the last step.

    The highest of several noisy means is too high. Therefore each tenth of the problems (every
    tenth one) is scored at the step that is best on the seed's other problems. Noise in the choice
    is then independent of the scores. Fewer problems choose less reliably, so the drop is rather
    too low.

    Args:
        by_step: by step and task, scores of seeds x problems.

    Returns:
        By task, drops of seeds x problems.
    """
    drops = [np.zeros_like(last_SP) for last_SP in by_step[-1]]
    for fold in range(FOLDS):
        is_judged = [np.arange(task.shape[1]) % FOLDS == fold for task in drops]
        by_task = [
            [task[:, ~judged].mean(1) for task, judged in zip(tasks, is_judged, strict=True)]
            for tasks in by_step
        ]
        for seed, best in enumerate(np.mean(by_task, axis=1).argmax(axis=0)):
            for task, judged in enumerate(is_judged):
                chosen_P, last_P = by_step[best][task][seed], by_step[-1][task][seed]
                drops[task][seed, judged] = (chosen_P - last_P)[judged]
    return drops
