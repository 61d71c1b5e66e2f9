"""Draw figures of evaluations: accuracy over the steps, and gains against length statistics.

A method has the same colour and line style in every figure.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from eval.stats import mean_interval
from eval.tables.grid import TableRow, in_words
from eval.tables.results import TrainingRun
from recipe.maths.rules import RULES

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
SHAPES = "osD^vP*X"
# The quantities of a run's training that the paper explains gains by, with their units.
LENGTHS = {
    "length_variation": "length variation within groups\n(standard deviation / mean length)",
    "length_gap": "length gap (negative - positive)\n(difference / mean length)",
}
FEW_SEEDS = "Points of few seeds are noise as much as signal."
MOST_TICKS = 6
Pictures = list[tuple[Path, str]]


class Point(NamedTuple):
    """The gain of a method over the baseline in one pair of runs."""

    row: str
    method: str
    seed: int
    gain: float
    """The difference in points."""
    baseline: TrainingRun


def write_figures(
    folder: Path, rows: Sequence[TableRow], baseline: str
) -> tuple[Pictures, list[str]]:
    """Draw what can be drawn.

    Returns:
        The pictures with their captions; why others were left out.
    """
    runs = [row for row in rows if row.experiment is not None]
    pictures, left_out = [], []
    for number, row in enumerate(runs):
        same = sum(other.experiment == row.experiment for other in runs) > 1
        path = folder / f"steps_{row.experiment}{f'_{number}' if same else ''}.png"
        caption, missing = draw_steps(path, row)
        left_out += [f"{path.name}: {line}" for line in missing]
        if caption:
            pictures.append((path, caption))
    path = folder / "gain.png"
    caption, missing = draw_gain(path, runs, baseline)
    left_out += [f"{path.name}: {line}" for line in missing]
    if caption:
        pictures.append((path, caption))
    return pictures, left_out


def draw_steps(path: Path, row: TableRow) -> tuple[str, list[str]]:
    """Draw accuracy over the steps; return the caption and what is left out.

    A method has no point at a step that one of its seeds lacks.
    """
    panels: list[tuple[str, tuple[str, ...]]] = [("average of tasks", row.tasks)]
    panels = [(row.tasks[0], row.tasks)] if len(row.tasks) == 1 else panels
    if len(row.tasks) > 1:
        panels += [(task, (task,)) for task in row.tasks]
    left_out = [
        f"no points of {in_words(row, missing)}"
        for method in row.methods
        if (missing := row.missing(method, row.steps))
    ]
    complete = {
        label: {
            method: [step for step in row.steps if not row.missing(method, [step], tasks)]
            for method in row.methods
        }
        for label, tasks in panels
    }
    if len(row.steps) < 2:
        return "", [f"left out, as {row.name} was evaluated at one step alone"]
    if not any(steps for found in complete.values() for steps in found.values()):
        return "", [f"left out, as no method of {row.name} has all seeds at any step"]
    figure, axes = panelled(len(panels) - 1)
    for ax, (label, tasks) in zip(axes, panels, strict=True):
        for method in row.methods:
            steps = complete[label][method]
            if not steps:
                continue
            seeds = row.seeds(method)
            found = [mean_interval(row.scores(method, seeds, step, tasks)) for step in steps]
            mean, low, high = (100 * np.array(x) for x in list(zip(*found, strict=True))[:3])
            color, style, shape = look(method)
            seeds_said = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
            ax.plot(
                steps,
                mean,
                color=color,
                linestyle=style,
                marker=shape,
                markersize=4,
                label=f"{method} ({seeds_said})",
            )
            ax.fill_between(steps, low, high, color=color, alpha=0.08, linewidth=0)
            for edge in (low, high):
                ax.plot(steps, edge, color=color, linestyle=style, linewidth=0.6, alpha=0.6)
        ax.set_title(label, fontsize=10)
        ax.grid(alpha=0.3)
        few = len(row.steps) <= MOST_TICKS
        ax.xaxis.set_major_locator(
            FixedLocator(row.steps) if few else MaxNLocator(integer=True, nbins=MOST_TICKS)
        )
    axes[0].set_ylabel("mean@k (% of samples correct)")
    axes[0].set_xlabel("training step")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=9
    )
    caption = (
        f"{row.name}: accuracy over the training steps, mean over seeds; bands are 95 % intervals "
        f"over seeds and problems, each step by itself. {FEW_SEEDS}"
    )
    return save(figure, path, caption), left_out


def panelled(num_small: int) -> tuple[Figure, list[Axes]]:
    """Return a large panel and small ones beside it, three in a row."""
    if not num_small:
        figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
        return figure, [axes]
    across = min(3, num_small)
    down = -(-num_small // across)
    figure = plt.figure(figsize=(5 + 2.3 * across, max(4.8, 2.4 * down)), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[5, 2.3 * across])
    large, small = parts
    axes = small.subplots(down, across, squeeze=False).flatten()
    for ax in axes[num_small:]:
        ax.remove()
    return figure, [large.subplots(), *axes[:num_small]]


def points(rows: Iterable[TableRow], baseline: str) -> tuple[list[Point], list[str]]:
    """Return gains at the last step by experiment, method and seed, and the reasons for gaps."""
    found, left_out = [], []
    for row in rows:
        if baseline not in row.methods:
            left_out.append(f"no points of {row.name}: it has no results of {baseline}")
            continue
        for method in row.methods:
            for seed in row.seeds(method) if method != baseline else ():
                lacks = [
                    place
                    for name in (method, baseline)
                    for place in (row.missing(name, [row.last_step]))
                    if place.seed == seed
                ]
                if seed not in row.seeds(baseline):
                    left_out.append(
                        f"no point of {row.name}, {method}, seed {seed}: "
                        f"{baseline} has no such seed"
                    )
                elif lacks:
                    left_out.append(f"no point without {in_words(row, lacks)}")
                else:
                    means = [
                        np.mean([t.mean() for t in row.scores(name, [seed], row.last_step)])
                        for name in (method, baseline)
                    ]
                    run = row.found(baseline, [seed], row.last_step)[0][0].run
                    gain = 100 * float(means[0] - means[1])
                    assert run is not None
                    found.append(Point(row.name, method, seed, gain, run))
    return found, left_out


def draw_gain(path: Path, rows: Sequence[TableRow], baseline: str) -> tuple[str, list[str]]:
    """Draw gains against the length statistics of the baseline; return caption and gaps."""
    found, left_out = points(rows, baseline)
    panels = {}
    for name in LENGTHS:
        panels[name] = [point for point in found if getattr(point.baseline, name) is not None]
        if lost := len(found) - len(panels[name]):
            left_out.append(
                f"{lost} of {len(found)} points have no {name}: it is null in the results of "
                f"{baseline}"
            )
    if not any(panels.values()):
        return "", [*left_out, f"left out, as no gain over {baseline} is known with its lengths"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 5), sharey=True, layout="constrained")
    names = sorted({point.row for point in found})
    for ax, (name, chosen) in zip(axes, panels.items(), strict=True):
        scatter_gain(ax, name, chosen, {row.name: row for row in rows}, baseline)
        ax.axhline(0, linestyle=":", color="gray")
        ax.set_xlabel(f"{LENGTHS[name]}, of {baseline}'s run")
        for number, row in enumerate(names if len(names) > 1 else ()):
            x = [getattr(point.baseline, name) for point in chosen if point.row == row]
            if x:
                ax.axvline(np.mean(x), color="0.85", linewidth=1, zorder=0)
                ax.text(
                    np.mean(x),
                    1.01 + 0.05 * (number % 2),
                    str(number + 1),
                    ha="center",
                    transform=ax.get_xaxis_transform(),
                )
        ax.xaxis.set_major_locator(MaxNLocator(nbins=MOST_TICKS))
        ax.grid(alpha=0.3, axis="y")
    axes[0].set_ylabel(f"gain over {baseline} (points of mean@k)")
    methods = {point.method for point in found}
    for method in [*(r for r in RULES if r in methods), *sorted(methods - set(RULES))]:
        color, _, shape = look(method)
        axes[0].scatter([], [], color=color, marker=shape, s=70, edgecolors="black", label=method)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=9
    )
    numbered = ", ".join(f"{number}: {row}" for number, row in enumerate(names, 1))
    caption = (
        f"Gain over {baseline} at the last step, runs of the same experiment and seed, against the "
        f"mean length variation and length gap of the {baseline} run's training. Small points are "
        f"seeds, large ones the mean of all seeds. {FEW_SEEDS} "
        f"{numbered if len(names) > 1 else names[0]}."
    )
    return save(figure, path, caption), left_out


def scatter_gain(
    ax: Axes, name: str, chosen: Sequence[Point], rows: dict[str, TableRow], baseline: str
) -> None:
    """Draw a small point for each seed, and a large one for their mean if no seed is missing."""
    for cell in sorted({(point.row, point.method) for point in chosen}):
        own = [point for point in chosen if (point.row, point.method) == cell]
        x, y = [getattr(point.baseline, name) for point in own], [point.gain for point in own]
        color, _, shape = look(cell[1])
        ax.scatter(x, y, color=color, marker=shape, s=20, alpha=0.4, linewidths=0)
        row = rows[cell[0]]
        if len(own) == len(set(row.seeds(cell[1])) & set(row.seeds(baseline))):
            ax.scatter(
                [np.mean(x)],
                [np.mean(y)],
                color=color,
                marker=shape,
                s=70,
                alpha=0.9,
                edgecolors="black",
                linewidths=0.8,
            )


def look(method: str) -> tuple[str, object, str]:
    """Return colour, line style and marker of a method."""
    known = list(RULES)
    number = known.index(method) if method in known else len(known)
    return f"C{number}", STYLES[number % len(STYLES)], SHAPES[number % len(SHAPES)]


def save(figure: Figure, path: Path, caption: str) -> str:
    """Write a figure with its caption below it, and return the caption."""
    width = int(figure.get_figwidth() * 15)
    figure.supxlabel("\n".join(textwrap.wrap(caption, width)), fontsize=8, color="0.25")
    figure.savefig(path, dpi=180)
    plt.close(figure)
    return caption
