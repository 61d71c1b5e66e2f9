"""Write the analysis of a run: text, table, two pictures, and all numbers as JSON."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from recipe.analysis.bootstrap import LEVEL, REPLICATES, Estimate
from recipe.analysis.counterfactual import Analysis
from recipe.analysis.explanation import explanation
from recipe.analysis.findings import findings, number, percent, points
from recipe.base.tables import markdown_table
from recipe.run.report import draw


def write_analysis(
    folder: Path, analysis: Analysis, unit: str, premises: Sequence[str], origin: dict[str, Any]
) -> tuple[str, list[Path]]:
    """Write `analysis.md`, its pictures and `analysis.json`.

    Args:
        folder: made if it is not there; files of an earlier analysis are replaced.
        analysis: what was found.
        unit: what lengths count, in one word.
        premises: what was read and assumed, in sentences.
        origin: how the result was made, for the JSON.

    Returns:
        The text, without its pictures, for the terminal; the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [
        draw(folder / f"{name}.png", plot, analysis)
        for name, plot in (("share", plot_share), ("length", plot_length))
    ]
    explained = explanation(analysis, unit)
    said = f"{explained}\n\n{text(analysis, premises)}"
    report, numbers = folder / "analysis.md", folder / "analysis.json"
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    report.write_text(
        f"# Aggregation rules on the responses of {folder.name}\n\n{said}\n"
        + "".join(f"![{picture.stem}]({picture.name})\n\n" for picture in pictures)
        + f"Commit {origin['commit']}; `{origin['command']}`; {versions}.\n"
    )
    content = {
        "explanation": explained,
        "findings": findings(analysis),
        "premises": list(premises),
        **as_json(analysis),
    }
    numbers.write_text(json.dumps({**content, **origin}, indent=1, allow_nan=False) + "\n")
    return said, [report, *pictures, numbers]


def text(analysis: Analysis, premises: Sequence[str]) -> str:
    """Return the findings, the table and the assumptions."""
    parts = [*findings(analysis), "\n".join(rules_table(analysis)), "\n".join(lengths(analysis))]
    parts += ["\n".join(f"- {line}" for line in [*premises, *reading(analysis)])]
    return "\n\n".join(parts) + "\n"


def rules_table(analysis: Analysis) -> list[str]:
    """Return a table with a row for each rule, the trained rule first."""
    head = (
        "rule",
        "negative share",
        "sd",
        "sign_length_coupling",
        "sd",
        "effective",
        "sd",
        "moved",
    )
    rows: list[tuple[str, ...]] = [head]
    order = sorted(analysis.rules, key=lambda name: name != analysis.trained)
    for name in order:
        cells = [f"{name} (trained)" if name == analysis.trained else name]
        for key, scale, unit, digits, sign in (
            ("objective_share_negative", 100, "%", 1, "-"),
            ("sign_length_coupling", 1, "", 2, "+"),
            ("effective", 100, "%", 1, "-"),
        ):
            found = analysis.run[f"{key}/{name}"]
            deviation = analysis.deviation[f"{key}/{name}"]
            spread = Estimate(deviation, float("nan"), float("nan"))
            cells += [number(found, scale, unit, digits, sign), number(spread, scale, unit, digits)]
        rows.append((*cells, percent(analysis.run[f"moved/{name}"])))
    return markdown_table(rows[0], rows[1:])


def lengths(analysis: Analysis) -> list[str]:
    """Return a table of the paper's two quantities and what they move."""
    rows = [("within groups", "mean over groups", "moves of the objective")]
    run = analysis.run
    rows.append(
        (
            "length variation",
            percent(run["length_variation"]),
            f"sequence, within a sign: {percent(run['moved_by_variation'])}",
        )
    )
    rows.append(
        (
            "length gap",
            percent(run["length_gap"]),
            f"token, to the negative: {points(run['moved_by_gap'])} points",
        )
    )
    return markdown_table(rows[0], rows[1:])


def reading(analysis: Analysis) -> list[str]:
    """Explain how to read the numbers."""
    return [
        f"Intervals are {LEVEL:.0%} percentile bootstrap intervals over groups ({REPLICATES} "
        f"resamples of whole groups: a step's from its own groups, the run's from all). They are "
        f"too narrow where a step has few groups.",
        "Shares are means over the steps. `sd` is the standard deviation over steps, their noise "
        "included. Coupling is log(positive share / negative share), relative to `sequence`. "
        "Effective is 1 / sum of squared shares, as a part of all responses. Moved is the part of "
        f"the objective that goes to other responses than under `{analysis.trained}`.",
        "Rules that differ by a factor per step (`token_batch`, `constant`) agree in every number.",
        "Length gap is the mean negative minus the mean positive length, length variation the "
        "standard deviation, both in units of the group's mean length. arXiv:2605.04077 names "
        "these two quantities but no threshold: that the larger move decides is an assumption of "
        "this analysis.",
        "The same responses are re-weighted: had another rule trained, later responses would have "
        "been others.",
    ]


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Return all numbers; undefined and infinite ones are null."""

    def plain(found: dict[str, Estimate]) -> dict[str, Any]:
        return {
            key: {name: x if isfinite(x) else None for name, x in estimate._asdict().items()}
            for key, estimate in found.items()
        }

    return {
        "trained": analysis.trained,
        "responses": analysis.num_responses,
        "groups": analysis.num_groups,
        "groups_with_both_signs": analysis.num_mixed,
        "run": plain(analysis.run),
        "drift": analysis.drift
        and {**analysis.drift._asdict(), "found": plain(analysis.drift.found)},
        "deviation_over_steps": {
            key: x if isfinite(x) else None for key, x in analysis.deviation.items()
        },
        "steps": {step: plain(found) for step, found in analysis.steps.items()},
    }


def plot_share(axes: Axes, analysis: Analysis) -> None:
    """Plot the share of negative responses under each rule."""
    # Rules that agree lie on each other: thinner and thinner, all stay visible.
    for rank, name in enumerate(analysis.rules):
        label = f"{name} (trained)" if name == analysis.trained else name
        width = 1.5 * (len(analysis.rules) - rank)
        band(axes, analysis, f"objective_share_negative/{name}", label=label, linewidth=width)
    axes.axhline(0.5, linestyle=":", color="gray")
    # Room for the legend, which does not see the bands.
    axes.margins(y=0.35)
    axes.set_ylabel("negative share of the objective")


def plot_length(axes: Axes, analysis: Analysis) -> None:
    """Plot the length gap and the length variation within groups."""
    band(axes, analysis, "length_variation", label="variation")
    band(axes, analysis, "length_gap", label="gap, negative - positive")
    axes.axhline(0, linestyle=":", color="gray")
    axes.set_ylabel("in units of the group's mean length")


def band(axes: Axes, analysis: Analysis, key: str, **style: Any) -> None:
    """Plot a quantity over the steps that define it, with its interval as a band."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rows = [(step, *found[key]) for step, found in analysis.steps.items()]
    rows = [row for row in rows if isfinite(row[1])]
    if rows:
        step, value, low, high = zip(*rows, strict=True)
        (line,) = axes.plot(step, value, marker=".", **style)
        axes.fill_between(step, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
