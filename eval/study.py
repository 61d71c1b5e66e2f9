"""Compare the arms of a study: differences with intervals, and which prediction came true.

    python -m eval.study benchmarks/results/study                      # all tables
    python -m eval.study benchmarks/results/study arms --into docs/finding.md
    python -m eval.study benchmarks/results/study --draw docs/figures/study.png

Tables: `arms` has every arm of every cell, `predictions` how well each measure of the estimator
predicted training. Seeds are paired. The end is judged over seeds and problems
(`eval.stats.paired_interval`), the area by a t interval over seeds.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy import stats

from eval.stats import Interval, holm, paired_interval
from eval.study_results import Row, accuracies, compared, read_results
from recipe.base.command import command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.tables import markdown_table

TABLES = ("arms", "predictions")
LEVEL = 0.95
# A level is reached when the mean of so many steps' training accuracy is there.
SMOOTH = 5
# The level: this part of the way from the first accuracy to the baseline's last one.
WAY = 0.8
# Measures of the estimator, and the column that each is compared with.
MEASURES = (
    "cosine/sgd",
    "snr/sgd",
    "gain_own_norm/sgd",
    "gain_rms/sgd",
    "gain_own_norm/adamw",
    "gain_rms/adamw",
    "gain_rms_16/adamw",
    "measured/sgd",
    "measured/adamw",
)


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
    area_difference = end_difference = None
    if len(common) > 1:
        changed = [fmean(mine[s]["correct"]) - fmean(other[s]["correct"]) for s in common]
        area_difference = t_interval(changed)
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


def arms_table(cells: dict[str, list[Arm]]) -> list[str]:
    """Return the table of all arms, in points."""
    every = [arm for arms in cells.values() for arm in arms]
    adjusted: dict[tuple[str, str, str], float] = {}
    for what in ("area_difference", "end_difference"):
        found = [(arm, getattr(arm, what)) for arm in every if getattr(arm, what)]
        for (arm, _), p in zip(found, holm([one.p_value for _, one in found]), strict=True):
            adjusted[arm.cell, arm.name, what] = p

    def shown(arm: Arm, what: str) -> str:
        found = getattr(arm, what)
        if found is None:
            return "-"
        half = (found.high - found.low) / 2
        p = adjusted[arm.cell, arm.name, what]
        return f"{100 * found.estimate:+.2f} +- {100 * half:.2f}{' *' if p < 1 - LEVEL else ''}"

    table = [
        (
            cell if arm is arms[0] else "",
            f"`{arm.name}`",
            f"{arm.rate:g}",
            str(arm.seeds),
            f"{100 * arm.area:.2f}",
            shown(arm, "area_difference"),
            f"{100 * arm.end:.2f}",
            shown(arm, "end_difference"),
            "-" if arm.steps is None else f"{arm.steps:.1f}",
            f"{100 * arm.worst_drop:.1f}",
            f"{arm.collapsed:.0%}",
            f"{arm.entropy:.2f}",
            f"{arm.length:.0f}",
            "-" if arm.length_gap is None else f"{arm.length_gap:+.2f}",
        )
        for cell, arms in cells.items()
        for arm in sorted(arms, key=lambda one: -one.area)
    ]
    head = ("cell", "rule", "rate", "seeds", "area", "difference", "end", "difference")
    head += ("steps", "drop", "collapsed", "entropy", "length", "gap")
    return markdown_table(head, table)


def predictions_table(folder: Path, cells: dict[str, list[Arm]], baseline: str) -> list[str]:
    """Return how well each measure's differences to the baseline predicted those of training.

    Raises:
        UserError: a cell has no prediction.
    """
    pairs: dict[str, list[tuple[float, Arm]]] = {measure: [] for measure in MEASURES}
    for cell, arms in cells.items():
        path = folder / "predictions" / f"{cell}.json"
        if not path.is_file():
            raise UserError(f"{cell} has no prediction {path}.")
        rules = json.loads(path.read_text())["rules"]
        for arm in arms:
            if arm.name == baseline or arm.area_difference is None or arm.name not in rules:
                continue
            for measure in MEASURES:
                one, other = (rules[name][measure]["value"] for name in (arm.name, baseline))
                if one is not None and other is not None:
                    pairs[measure].append((one - other, arm))
    table = []
    for measure, found in pairs.items():
        if len(found) < 3:
            continue
        predicted = [value for value, _ in found]
        line = [f"`{measure}`", str(len(found))]
        for what in ("area_difference", "end_difference"):
            observed = [getattr(arm, what).estimate for _, arm in found]
            same = np.mean(np.sign(predicted) == np.sign(observed))
            rank, _ = stats.spearmanr(predicted, observed)
            linear, _ = stats.pearsonr(predicted, observed)
            line += [f"{linear:+.2f}", f"{rank:+.2f}", f"{same:.0%}"]
        table.append(tuple(line))
    head = ("measure", "pairs", "area: correlation", "rank correlation", "same sign")
    head += ("end: correlation", "rank correlation", "same sign")
    return markdown_table(head, table)


def draw(path: Path, cells: dict[str, list[Arm]]) -> None:
    """Draw every arm's difference in area to the baseline, with its interval, cell by cell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    # Cells may hold their arms in different orders, and share one axis of names.
    names = sorted({arm.name for arms in cells.values() for arm in arms if arm.area_difference})
    figure, axes = plt.subplots(
        1,
        len(cells),
        figsize=(2.6 * len(cells), 3.2),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for ax, (cell, arms) in zip(np.atleast_1d(axes), cells.items(), strict=True):
        for arm in arms:
            found = arm.area_difference
            if found:
                ax.errorbar(
                    100 * found.estimate,
                    names[::-1].index(arm.name),
                    xerr=100 * (found.high - found.low) / 2,
                    fmt="o",
                    color="C0",
                )
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_yticks(range(len(names)), names[::-1])
        ax.set_title(cell.replace("_", " "), fontsize=9)
        ax.set_xlabel("area, points")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("eval.study", __doc__)
    add = command.add_argument
    add("folder", type=Path, help="of a study's results")
    add("table", nargs="?", choices=TABLES, help="only this table")
    add("--baseline", default="token", help="arm that the others are compared with (token)")
    add("--into", type=Path, metavar="FILE", help="write the table between its marks there")
    add("--draw", type=Path, metavar="FILE", help="draw the differences instead")
    return command


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    given = parser().parse_args()
    with errors_reported():
        rows = read_results(given.folder)
        complete, begun = cells_of(rows)
        cells = {cell: arms_of(rows, cell, given.baseline) for cell in complete}
        if not cells:
            raise UserError(f"{given.folder} has no cell in which every arm has its seeds yet.")
        if begun:
            print(f"in progress, left out: {', '.join(begun)}", file=sys.stderr)
        if given.draw:
            draw(given.draw, cells)
            print(f"wrote {given.draw}")
            return
        made = {
            "arms": lambda: arms_table(cells),
            "predictions": lambda: predictions_table(given.folder, cells, given.baseline),
        }
        for name in [given.table] if given.table else TABLES:
            show_table(made[name](), f"study_{name}", given.into)
            print()


if __name__ == "__main__":
    main()
