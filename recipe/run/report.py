"""Write the report of a run, a table and four pictures, from its metrics alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from recipe.base.tables import markdown_table
from recipe.maths.rules import RULES
from recipe.run.console import held_out_accuracy

Records = list[tuple[int, dict[str, float]]]
UNDER_RULE = {
    "objective_share_negative": "negative share",
    "sign_length_coupling": "sign-length coupling",
    "effective_num_responses": "effective responses",
    "pg_loss_expected": "on-policy loss",
    "prefix_push": "prefix push",
    "weight_relative_std": "relative std of weights",
}
COLORS = {"positive": "tab:green", "negative": "tab:red"}


def write_report(folder: Path, records: Records, summary: dict[str, Any]) -> list[Path]:
    """Write `report.md` and its pictures; return their paths, the report first."""
    pictures = [
        draw(folder / f"{name}.png", plot, records)
        for name, plot in (
            ("reward", plot_reward),
            ("length", plot_length),
            ("share", plot_share),
            ("gradient", plot_gradient),
        )
    ]
    report = folder / "report.md"
    report.write_text(markdown(records, summary, pictures))
    return [report, *pictures]


def markdown(records: Records, summary: dict[str, Any], pictures: Iterable[Path]) -> str:
    """Return the text of the report."""
    steps = [data for _, data in records if "critic/rewards/mean" in data]
    first, last = steps[0], steps[-1]
    # What was not chosen, such as DisCO, is in no step.
    rows = [
        ("held-out accuracy", percent(summary["val_start"]), percent(summary["val_end"])),
        *(
            (label, number(first.get(key)), number(last.get(key)))
            for label, key in (
                ("sampled reward", "critic/rewards/mean"),
                ("responses without an answer", "reward/no_answer"),
                ("unreadable answers", "reward/parse_error"),
                ("answers over their limit of time or memory", "reward/timeout"),
                ("seconds to grade a response", "reward/seconds"),
                ("mean length, correct", "reward/length_correct"),
                ("mean length, incorrect", "reward/length_incorrect"),
                ("length gap (negative - positive, in group means)", "aggregation/length_gap"),
                ("length variation within groups", "aggregation/length_variation"),
                ("groups without variance", "aggregation/num_zero_groups"),
                ("tokens of the prefix that a group shares", "aggregation/prefix_length"),
                ("truncated share of positive responses", "aggregation/truncated_positive"),
                ("truncated share of negative responses", "aggregation/truncated_negative"),
                ("policy loss", "actor/pg_loss"),
                ("policy loss expected on-policy", "aggregation/pg_loss_expected"),
                ("learned scalar", "aggregation/lambda_scalar"),
                ("difficulty anchor", "advantage/anchor"),
                ("DisCO objective", "actor/disco_objective"),
                ("DisCO KL, mean over the step's updates", "actor/disco_kl"),
                ("gradient norm", "actor/grad_norm"),
                ("update norm", "actor/update_norm"),
                (
                    "parameters whose AdamW step depends on the gradient scale",
                    "actor/adamw_scale_sensitive_share",
                ),
                (
                    "clipping excess (mean distance of ratios beyond their bound)",
                    "actor/ratio_clip_excess",
                ),
            )
            if any(key in data for _, data in records)
        ),
    ]
    trained = summary["rule"].partition("+")[0]
    under = [
        (f"{rule} (trained)" if rule == trained else rule, *map(number, found))
        for rule in RULES
        if (found := [mean(records, f"aggregation/{key}/{rule}") for key in UNDER_RULE])[0]
        is not None
    ]
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    clipped = percent(mean(records, "actor/grad_clipped"))
    return "\n".join(
        [
            f"# {summary['experiment']}: {summary['rule']}, seed {summary['seed']}",
            "",
            *markdown_table(("", "start", "end"), rows),
            "",
            f"{summary['steps']} steps in {summary['seconds']:.0f} s, "
            f"{summary['startup_seconds']:.0f} s of them until the first record; peak memory "
            f"{number(summary['peak_memory_gib'])} GiB; gradient clipped in {clipped} of the "
            f"updates.",
            "",
            "The next table shows what each rule would have made of the same responses, averaged "
            "over the steps. Negative share: the part of the objective that negative responses "
            "have. Sign-length coupling: the log of positive over negative share, relative to "
            "`sequence`. "
            "Effective responses: how many equal responses would share the objective as evenly. "
            "On-policy loss: the policy loss before any update. Prefix push: the push on tokens "
            "with which all responses of a group begin. Relative std of weights: the standard "
            "deviation of the weights in units of that of `token`.",
            "",
            *markdown_table(("rule", *UNDER_RULE.values()), under),
            "",
            *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
            f"Commit {summary['commit']}; `{summary['command']}`; {versions}.",
            "",
        ]
    )


def draw(path: Path, plot: Any, records: Any) -> Path:
    """Draw one picture and return its path."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    plot(axes, records)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def plot_reward(axes: Axes, records: Records) -> None:
    """Plot the share of correct responses, in training and on held-out prompts."""
    line(axes, records, "reward/correct", label="training prompts", alpha=0.5)
    values = ((step, held_out_accuracy(data)) for step, data in records)
    held_out = [(step, value) for step, value in values if value is not None]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", label="held-out prompts")
        axes.axhline(held_out[0][1], linestyle=":", color="gray", label="held-out, start")
    axes.set_ylabel("share of correct responses")


def plot_length(axes: Axes, records: Records) -> None:
    """Plot the mean length by the sign of the advantage."""
    for sign, color in COLORS.items():
        line(axes, records, f"aggregation/length_{sign}", label=f"{sign} advantage", color=color)
    axes.set_ylabel("mean response length (tokens)")


def plot_share(axes: Axes, records: Records) -> None:
    """Plot the share of the objective that negative responses have under each rule."""
    # Lines of rules that agree cover each other; each is thinner than the one below it.
    for rank, rule in enumerate(RULES):
        width = 1.5 * (len(RULES) - rank)
        line(
            axes,
            records,
            f"aggregation/objective_share_negative/{rule}",
            label=rule,
            linewidth=width,
        )
    axes.axhline(0.5, linestyle=":", color="gray")
    axes.set_ylabel("negative share of the objective")


def plot_gradient(axes: Axes, records: Records) -> None:
    """Plot the norm of the gradient before clipping and of the update."""
    line(axes, records, "actor/grad_norm", label="gradient norm")
    line(axes, records, "actor/update_norm", label="update norm")
    axes.set_yscale("log")
    axes.set_ylabel("norm")


def line(axes: Axes, records: Records, key: str, **style: Any) -> None:
    """Plot a metric over the steps that have it."""
    points = [(step, data[key]) for step, data in records if key in data]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def mean(records: Records, key: str) -> float | None:
    """Return the mean of a metric over the steps that have it, None if none has."""
    values = [data[key] for _, data in records if key in data]
    return sum(values) / len(values) if values else None


def number(value: float | None) -> str:
    """Return a number with three significant digits."""
    return "-" if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Return a share as a percentage with one decimal."""
    return "-" if value is None else f"{value:.1%}"
