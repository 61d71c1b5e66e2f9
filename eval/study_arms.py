"""Compare the arms of a study's cells: outcomes, and differences with intervals over seeds."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy import stats

from eval.stats import Interval, paired_interval
from eval.study_results import Row, accuracies, compared
from recipe.base.errors import UserError

LEVEL = 0.95
# A level is reached when the mean of so many steps' training accuracy is there.
SMOOTH = 5
# The level: this part of the way from the first accuracy to the baseline's last one.
WAY = 0.8


class Arm(NamedTuple):
    """Hold the outcomes of an arm in a cell, and its differences to the baseline."""

    cell: str
    name: str
    rate: float
    seeds: int
    area: float
    """Mean share of correct training responses over all steps."""
    end: float
    """Held-out accuracy at the end."""
    area_changes: dict[int, float]
    """Difference in area to the baseline on each common seed."""
    area_difference: Interval | None
    """None for the baseline itself, and with fewer than two seeds."""
    end_difference: Interval | None
    worst_drop: float
    """Best minus last held-out accuracy, mean over seeds."""
    collapsed: float
    """Share of runs that end below the accuracy of their first step."""
    steps: float | None
    """Mean steps to the level; None if a run does not reach it."""
    entropy: float
    """Hold the mean of the last steps, in nats per token."""
    length: float
    """Hold the mean of the last steps, in tokens."""
    length_gap: float | None
    """Mean over steps."""


def arms_of(rows: Sequence[Row], cell: str, baseline: str) -> list[Arm]:
    """Return every arm of a cell.

    Raises:
        UserError: the cell has no run of the baseline.
    """
    runs = compared(rows, cell)
    if baseline not in runs:
        raise UserError(
            f"{cell} has no finished run of the baseline {baseline}; it has "
            f"{', '.join(runs) or 'none'}. Name another with --baseline."
        )
    start = fmean(row["correct"][0] for arm in runs.values() for row in arm.values())
    last = fmean(fmean(row["correct"][-SMOOTH:]) for row in runs[baseline].values())
    level = start + WAY * (last - start)
    return [arm_of(cell, name, runs, baseline, level) for name in runs]


def arm_of(
    cell: str, name: str, runs: dict[str, dict[int, Row]], baseline: str, level: float
) -> Arm:
    """Return the outcomes of one arm."""
    mine, other = runs[name], runs[baseline]
    looks = [accuracies(row).mean(1) for row in mine.values()]
    steps = [steps_to(row["correct"], level) for row in mine.values()]
    common = sorted(mine.keys() & other.keys()) if name != baseline else []
    changes = {s: fmean(mine[s]["correct"]) - fmean(other[s]["correct"]) for s in common}
    area_difference = end_difference = None
    if len(common) > 1:
        area_difference = t_interval(list(changes.values()))
        ends = [[accuracies(arm[s])[-1] for s in common] for arm in (mine, other)]
        end_difference = paired_interval(np.array(ends[0]), np.array(ends[1]), level=LEVEL)
    gaps = [gap for row in mine.values() for gap in row["length_gap"] if gap is not None]
    return Arm(
        cell,
        name,
        next(iter(mine.values()))["learning_rate"],
        len(mine),
        fmean(fmean(row["correct"]) for row in mine.values()),
        fmean(look[-1] for look in looks),
        changes,
        area_difference,
        end_difference,
        fmean(look.max() - look[-1] for look in looks),
        fmean(look[-1] < row["correct"][0] for look, row in zip(looks, mine.values(), strict=True)),
        None if None in steps else fmean(step for step in steps if step is not None),
        fmean(fmean(row["entropy"][-SMOOTH:]) for row in mine.values()),
        fmean(fmean(row["length"][-SMOOTH:]) for row in mine.values()),
        fmean(gaps) if gaps else None,
    )


def cells_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the complete cells and those in progress.

    A cell is complete if every arm has as many seeds as the fullest one of the study has.
    """
    names = dict.fromkeys(row["cell"] for row in rows if not row["is_selection"])
    seeds = {name: [len(runs) for runs in compared(rows, name).values()] for name in names}
    arms, most = (max(map(how, seeds.values()), default=0) for how in (len, max))
    complete = [name for name in names if seeds[name] == [most] * arms]
    return complete, [name for name in names if name not in complete]


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean with its t interval over seeds."""
    mean, error = fmean(values), float(stats.sem(values))
    if error == 0:
        return Interval(mean, mean, mean, float(mean > 0), float(mean == 0), len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    above = float(stats.t.cdf(mean / error, len(values) - 1))
    return Interval(mean, mean - half, mean + half, above, 2 * min(above, 1 - above), len(values))


def steps_to(correct: Sequence[float], level: float) -> int | None:
    """Return after how many steps the smoothed accuracy reaches a level."""
    smooth = np.convolve(correct, np.ones(SMOOTH) / SMOOTH, "valid")
    reached = np.flatnonzero(smooth >= level)
    return int(reached[0]) + SMOOTH if len(reached) else None


def mean_differences(cells: dict[str, list[Arm]]) -> dict[str, Interval]:
    """Return each arm's difference in area, averaged over cells on each seed, by name."""
    by_name: dict[str, list[Arm]] = {}
    for arms in cells.values():
        for arm in arms:
            if arm.area_difference:
                by_name.setdefault(arm.name, []).append(arm)
    found = {}
    for name, arms in by_name.items():
        seeds = set.intersection(*(set(arm.area_changes) for arm in arms))
        found[name] = t_interval([fmean(a.area_changes[s] for a in arms) for s in sorted(seeds)])
    return found
