"""What stands in the cells of a row: means, differences and drops, or why there is none.

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
    """A number with its interval, or None where results are missing, and what is to say of it."""

    interval: Interval | None
    notes: tuple[str, ...] = ()

    @property
    def varies(self) -> bool:
        """Whether values vary, without which neither interval nor probabilities mean anything."""
        return self.interval is not None and self.interval.low < self.interval.high


class Drop(NamedTuple):
    """How far the last step is below the best."""

    steps: tuple[int, ...] = ()
    """The best step of each seed."""
    best: float | None = None
    """Mean over seeds of the highest of the evaluated steps: too high."""
    last: float | None = None
    crossed: Measured = Measured(None)
    """Drop from a step that was chosen on other problems, with what is to say of all."""


def missing_note(
    row: TableRow, method: str, steps: Sequence[int], tasks: Sequence[str] = ()
) -> str:
    """A method's missing results in words, empty if there are none."""
    places = row.missing(method, steps, tasks)
    return "missing: " + in_words(row, places) if places else ""


def at_last_step(row: TableRow, method: str, tasks: Sequence[str] = ()) -> list[Result]:
    """A method's results at the row's last step, those that there are."""
    places = [
        Place(method, seed, row.last_step, task)
        for seed in row.seeds(method)
        for task in tasks or row.tasks
    ]
    return [row.results[place] for place in places if place in row.results]


def measure(row: TableRow, method: str, tasks: Sequence[str] = ()) -> Measured:
    """Mean over tasks, seeds and problems at the row's last step."""
    if missing := missing_note(row, method, [row.last_step], tasks):
        return Measured(None, (missing,))
    seeds = row.seeds(method)
    notes = commit_notes(at_last_step(row, method, tasks))
    if method != NO_METHOD and len(seeds) == 1:
        notes = (ONE_SEED, *notes)
    return with_warning(mean_interval(row.scores(method, seeds, row.last_step, tasks)), notes)


def with_warning(interval: Interval, notes: tuple[str, ...]) -> Measured:
    """A number, and a note if nothing varies."""
    return Measured(interval, notes if interval.low < interval.high else (UNVARIED, *notes))


def row_notes(row: TableRow) -> tuple[str, ...]:
    """What keeps the cells of a row from being alike."""
    notes = commit_notes([r for method in row.methods for r in at_last_step(row, method)])
    methods_of: dict[str, list[str]] = {}
    for method in row.methods:
        methods_of.setdefault(" ".join(map(str, row.seeds(method))), []).append(method)
    if len(methods_of) > 1:
        said = "; ".join(
            f"{seeds} of {', '.join(methods)}" for seeds, methods in methods_of.items()
        )
        notes = (f"methods have different seeds: {said}", *notes)
    return notes


def compare(row: TableRow, method: str, baseline: str) -> Measured:
    """How much higher a method is than the baseline at the row's last step.

    Over the seeds that both have; if there are none, the seeds are independent.
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
    """Best and last step of each seed, and the drop between them."""
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
    """Of each problem the drop to the last step from the step that is best on other problems.

    The highest of several noisy means is too high. So each tenth of the problems (every tenth one)
    is judged at the step that the seed's other problems find best: noise of the choice is not in
    what is judged. The others choose a little less surely than all, so this is rather too low.

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
