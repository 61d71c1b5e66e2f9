"""Say what the measured cells of the finding show, as tables and a picture.

    python -m benchmarks.finding_tables rules [--into docs/finding.md]
    python -m benchmarks.finding_tables theory [--into docs/finding.md]
    python -m benchmarks.finding_tables predictors [--into docs/finding.md]
    python -m benchmarks.finding_tables draw       # docs/figures/finding.png

Reads benchmarks/results/finding, which `python -m benchmarks.finding` wrote.
"""

import math
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from scipy.stats import spearmanr

from benchmarks.finding import (
    BASELINE,
    BATCH,
    BATCHES,
    GROUP,
    GROUPS,
    OPTIONS,
    POLICIES,
    SEEDS,
    TASKS,
    read_cells,
)
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.paths import ROOT
from recipe.base.tables import markdown_table
from recipe.estimator.seeds import interval

FIGURE = ROOT / "docs" / "figures" / "finding.png"
SHOWN = {
    "cosine/adamw": "cosine",
    "snr/adamw": "SNR of a batch",
    "gain_own_norm/adamw": "gain of a step",
    "gain_rms/adamw": "gain, RMS",
    "gain_rms_16/adamw": "gain, 16 batches averaged",
    "measured/adamw": "measured rise (1/1000)",
}
PREDICTORS = ("cosine", "snr", "gain_own_norm", "gain_rms", "gain_rms_4", "gain_rms_16")


def setting(cell: dict[str, Any], group: int, batch: int) -> dict[str, Any]:
    """Return the result of a cell for one size of groups and batches."""
    [found] = (
        one
        for one in cell["settings"]
        if (one["options"]["group"], one["options"]["batch_groups"]) == (group, batch)
    )
    return found


def over_seeds(
    cells: Sequence[dict[str, Any]],
    task: str,
    policy: str,
    rule: str,
    key: str,
    of: str = "value",
    group: int = GROUP,
    batch: int = BATCH,
) -> tuple[float, float]:
    """Return mean and half width over seeds of a rule's measure, or of its `difference`."""
    values = [
        setting(cell, group, batch)["rules"][rule][key][of]
        for cell in cells
        if (cell["task"], cell["policy"]) == (task, policy)
    ]
    if any(value is None for value in values):
        return math.nan, math.nan
    return interval(values)


def shown(found: tuple[float, float], scale: float = 1, sign: str = "", digits: int = 3) -> str:
    """Return a value with its half width, or a dash."""
    value, half = found
    if math.isnan(value):
        return "-"
    return f"{scale * value:{sign}.{digits}f} +- {scale * half:.{digits}f}"


def table(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of all measures, and those of the differences of single rules."""
    rows = []
    for task, policy, rule in product(TASKS, POLICIES, OPTIONS.rules):
        of_rule = [
            shown(
                over_seeds(cells, task, policy, rule, key),
                1e3 if key.startswith("measured") else 1,
                digits=1 if key.startswith("measured") else 3,
            )
            for key in SHOWN
        ]
        rows.append((f"{task}, {policy}", f"`{rule}`", *of_rule))
    lines = [
        f"Groups of {GROUP}, batches of {BATCH} groups, advantages `{OPTIONS.advantage}`, AdamW's "
        f"metric; mean over {len(SEEDS)} seeds +- half of a 95 % interval:",
        "",
        *markdown_table(("task, policy", "rule", *SHOWN.values()), rows),
        "",
        "Gain of a step, difference to another rule, for each size of groups and batches:",
        "",
        *markdown_table(*differences(cells)),
    ]
    return lines


def differences(
    cells: Sequence[dict[str, Any]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of the paired differences between rules."""
    pairs = [
        (a, b) for a in ("balanced", "balanced_batch") for b in ("token", "sequence", "token_batch")
    ]
    pairs += [("balanced_batch", "balanced"), ("balanced_square", "token_batch")]
    rows = []
    for task, policy, group, batch in product(TASKS, POLICIES, GROUPS, BATCHES):
        of_pairs = []
        for one, other in pairs:
            values = []
            for cell in cells:
                if (cell["task"], cell["policy"]) == (task, policy):
                    rules = setting(cell, group, batch)["rules"]
                    key = "gain_own_norm/adamw"
                    values.append(rules[one][key]["value"] - rules[other][key]["value"])
            of_pairs.append(shown(interval(values), sign="+"))
        rows.append((f"{task}, {policy}", f"{group} x {batch}", *of_pairs))
    head = ("task, policy", "G x groups", *(f"{one} - {other}" for one, other in pairs))
    return head, rows


def theory(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return the noise by verdict, and what docs/theory.md predicts from it.

    R is the ratio of a rule's signal over noise to that of `constant`. For the best factors and
    for those of the two batch rules it follows from the variances and lengths by sign.
    """
    rows = []
    for task, policy in product(TASKS, POLICIES):
        found = [
            setting(cell, GROUP, BATCH)
            for cell in cells
            if (cell["task"], cell["policy"]) == (task, policy)
        ]
        variance = [one["noise"]["adamw"] for one in found]
        ratio = [one["square_incorrect"] / one["square_correct"] for one in variance]
        slopes = [[one[f"slope_{x}"] for one in variance] for x in ("correct", "incorrect")]
        best = [ratio_of_snr(one["correct"], v, 1 / v) for one, v in zip(found, ratio, strict=True)]
        row = [
            f"{task}, {policy}",
            f"{fmean(one['correct'] for one in found):.0%}",
            f"{fmean(one['length_gap'] for one in found):+.2f}",
            shown(interval(ratio), digits=2),
            *(f"{fmean(slope):.2f}" for slope in slopes),
            f"{fmean(best):.2f}",
        ]
        for rule in ("balanced_batch", "balanced_square"):
            # Both give a sign one factor, so the factor is in the shares that the signs have.
            measured = [
                one["rules"][rule]["snr/adamw"]["value"]
                / one["rules"]["constant"]["snr/adamw"]["value"]
                for one in found
            ]
            predicted = [
                ratio_of_snr(one["correct"], v, factor_of(one["rules"], rule))
                for one, v in zip(found, ratio, strict=True)
            ]
            row += [f"{fmean(predicted):.2f}", shown(interval(measured), digits=2)]
        rows.append(tuple(row))
    head = (
        "task, policy",
        "correct",
        "length gap",
        "v-/v+",
        "growth, correct",
        "growth, incorrect",
        "R, best factors",
        "R, `balanced_batch`",
        "measured",
        "R, `balanced_square`",
        "measured",
    )
    return markdown_table(head, rows)


def ratio_of_snr(p: float, variance: float, factor: float) -> float:
    """Return signal over noise with the factor c-/c+, over that with equal factors.

    Args:
        p: share of correct responses.
        variance: v-/v+.
        factor: c-/c+.
    """

    def snr(c: float) -> float:
        return (1 - p + c * p) ** 2 / (1 - p + p * c**2 * variance)

    return snr(factor) / snr(1.0)


def factor_of(rules: dict[str, Any], name: str) -> float:
    """Return c-/c+ of a rule with one factor for each sign, from its share of the objective.

    Under `constant` the odds of the negative share are sum |A| L of both signs alone.
    """
    odds = [
        rules[one]["share_negative"] / (1 - rules[one]["share_negative"])
        for one in (name, "constant")
    ]
    return odds[0] / odds[1]


def paired(
    cells: Sequence[dict[str, Any]], key: str, measured: str
) -> Iterator[tuple[float, float]]:
    """Yield predicted and measured difference to the baseline of every rule, mean over seeds."""
    for task, policy, rule in product(TASKS, POLICIES, OPTIONS.rules):
        if rule != BASELINE:
            yield (
                over_seeds(cells, task, policy, rule, key, "difference")[0],
                over_seeds(cells, task, policy, rule, measured, "difference")[0],
            )


def predictors(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Return how well each measure predicts the measured step."""
    rows = []
    for metric, name in product(("sgd", "adamw"), PREDICTORS):
        points = [*paired(cells, f"{name}/{metric}", f"measured/{metric}")]
        points = [point for point in points if not math.isnan(point[0])]
        predicted, measured = zip(*points, strict=True)
        pearson = torch.corrcoef(torch.tensor([predicted, measured]))[0, 1].item()
        rank = float(spearmanr(predicted, measured).statistic)
        same = fmean((a > 0) == (b > 0) for a, b in points)
        rows.append((metric, f"`{name}`", f"{pearson:.2f}", f"{rank:.2f}", f"{same:.0%}"))
    head = ("step", "measure", "correlation", "rank correlation", "same sign")
    return markdown_table(head, rows)


def draw(cells: Sequence[dict[str, Any]]) -> None:
    """Draw each rule's gain beside the baseline's, and predicted against measured steps."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.8), layout="constrained")
    for place, task in enumerate(TASKS):
        for offset, policy in enumerate(POLICIES):
            for row, rule in enumerate(OPTIONS.rules):
                value, half = over_seeds(
                    cells, task, policy, rule, "gain_own_norm/adamw", "difference"
                )
                axes[place].errorbar(
                    value,
                    row + 0.25 * offset,
                    xerr=half,
                    fmt="os"[offset],
                    color=f"C{offset}",
                    label=policy if row == 0 else None,
                )
        gap = fmean(
            setting(cell, GROUP, BATCH)["length_gap"]
            for cell in cells
            if (cell["task"], cell["policy"]) == (task, "start")
        )
        axes[place].set_title(f"{task}: length gap {gap:+.2f} at the start")
        axes[place].set_yticks(range(len(OPTIONS.rules)), OPTIONS.rules)
        axes[place].invert_yaxis()
        axes[place].axvline(0, color="gray", linewidth=0.8)
        axes[place].set_xlabel(f"gain of a step, difference to {BASELINE}")
        axes[place].legend(title="policy", loc="lower right")
    points = [*paired(cells, "gain_own_norm/adamw", "measured/adamw")]
    axes[2].plot([a for a, _ in points], [1e3 * b for _, b in points], "o")
    axes[2].set_title("every rule's difference to token")
    axes[2].set_xlabel("predicted: difference in gain")
    axes[2].set_ylabel("measured: difference in the rise of the score (1/1000)")
    for one in axes:
        one.grid(alpha=0.3)
    figure.savefig(FIGURE, dpi=110)
    plt.close(figure)
    print(f"wrote {FIGURE.relative_to(ROOT)}")


TABLES = {"rules": table, "theory": theory, "predictors": predictors}


def parser() -> ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("benchmarks.finding_tables", __doc__)
    verbs = command.add_subparsers(dest="verb", required=True)
    for verb in TABLES:
        add_into(verbs.add_parser(verb), verb)
    verbs.add_parser("draw")
    return command


def main() -> None:
    """Do what the command line asks for."""
    given = parser().parse_args()
    with errors_reported():
        if given.verb == "draw":
            draw(read_cells())
        else:
            show_table(TABLES[given.verb](read_cells()), given.verb, given.into)


if __name__ == "__main__":
    main()
