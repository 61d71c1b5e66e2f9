"""Compare the arms of a study: differences with intervals, and which prediction came true.

    python -m eval.study benchmarks/results/study                      # all tables
    python -m eval.study benchmarks/results/study arms --into docs/finding.md
    python -m eval.study benchmarks/results/study means --cells level_steady level_varied
    python -m eval.study benchmarks/results/study --draw docs/figures/study.png

Tables: `arms` has every arm of every cell, `means` the differences in area averaged over cells,
`predictions` how well each measure of the estimator predicted training. Seeds are paired. The end
is judged over seeds and problems (`eval.stats.paired_interval`), the area by a t interval over
seeds.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from scipy import stats

from eval.stats import holm
from eval.study_arms import LEVEL, Arm, arms_of, cells_of, mean_differences
from eval.study_results import read_results
from recipe.base.command import command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.tables import markdown_table

# Panels of the picture in a row.
COLUMNS = 4
TABLES = ("arms", "means", "predictions")
# Measures of the estimator, and the column that each is compared with.
MEASURES = (
    "cosine/sgd",
    "cosine/adamw",
    "snr/sgd",
    "gain_own_norm/sgd",
    "gain_rms/sgd",
    "gain_own_norm/adamw",
    "gain_rms/adamw",
    "gain_rms_16/adamw",
    "measured/sgd",
    "measured/adamw",
)


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


def means_table(cells: dict[str, list[Arm]]) -> list[str]:
    """Return the table of differences averaged over cells, in points."""
    found = sorted(mean_differences(cells).items(), key=lambda one: -one[1].estimate)
    adjusted = holm([one.p_value for _, one in found])
    table = [
        (
            f"`{name}`",
            f"{100 * one.estimate:+.2f} +- {50 * (one.high - one.low):.2f}"
            f"{' *' if p < 1 - LEVEL else ''}",
        )
        for (name, one), p in zip(found, adjusted, strict=True)
    ]
    return markdown_table(("rule", f"difference in area, mean of {len(cells)} cells"), table)


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
    panels = {
        cell: {arm.name: arm.area_difference for arm in arms if arm.area_difference}
        for cell, arms in cells.items()
    }
    if len(cells) > 1:
        panels[f"mean of {len(cells)}"] = mean_differences(cells)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.6 * columns, 2.4 * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    places = list(axes.flat)
    for ax in places[len(panels) :]:
        ax.set_visible(False)
    for ax, (title, differences) in zip(places, panels.items(), strict=False):
        for name, found in differences.items():
            half = 50 * (found.high - found.low)
            height = names[::-1].index(name)
            ax.errorbar(100 * found.estimate, height, xerr=half, fmt="o", color="C0")
        ax.axvline(0, color="0.6", linewidth=1)
        ax.set_yticks(range(len(names)), names[::-1])
        ax.set_title(title.replace("_", " "), fontsize=10)
        ax.tick_params(labelbottom=True)
    figure.supxlabel("difference in area to the baseline, points", fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("eval.study", __doc__)
    add = command.add_argument
    add("folder", type=Path, help="of a study's results")
    add("table", nargs="?", choices=TABLES, help="only this table")
    add("--baseline", default="token", help="arm that the others are compared with (token)")
    add("--cells", nargs="+", metavar="CELL", help="only these (all complete ones)")
    add("--into", type=Path, metavar="FILE", help="write the table between its marks there")
    add("--draw", type=Path, metavar="FILE", help="draw the differences instead")
    return command


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    given = parser().parse_args()
    with errors_reported():
        rows = read_results(given.folder)
        complete, begun = cells_of(rows)
        chosen = given.cells or complete
        if unknown := set(chosen) - set(complete):
            raise UserError(
                f"{given.folder} has no complete cell {', '.join(sorted(unknown))}. It has "
                f"{', '.join(complete) or 'none'}."
            )
        cells = {cell: arms_of(rows, cell, given.baseline) for cell in chosen}
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
            "means": lambda: means_table(cells),
            "predictions": lambda: predictions_table(given.folder, cells, given.baseline),
        }
        for name in [given.table] if given.table else TABLES:
            show_table(made[name](), f"study_{name}", given.into)
            print()


if __name__ == "__main__":
    main()
