"""Compare the on-policy loss with its closed form (arXiv:2601.05002, proposition 4).

There it is a statistic of advantages and lengths, -(1/N) * sum_i w_i * length_i * A_i, and no
measure of progress. Axes: `_N` responses, `_P` groups.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from recipe.base.tables import markdown_table
from recipe.maths.diagnostics import under_rule
from recipe.probes.stage import EXPONENT, GROUP_SIZE, NO_CLIP, Stage, columns, weights

NUM_BATCHES, GROUPS_PER_BATCH = 12, 8
CLOSED = ("sequence", "balanced", "token", "token_batch", "constant")


def closed_forms(
    length_N: Tensor, advantage_N: Tensor, group_N: Tensor, limit: float
) -> dict[str, float]:
    """Return the on-policy loss of binary rewards with advantages of mean 0.

    A group with k positive responses of advantage A+, and mean lengths L+ and L- by sign, adds

        -(1/N) * (k A+) * (L+ - L-) / (reference length)

    where the reference is a constant within it: under `token` its mean length, under `token_batch`
    that of the batch, under `constant` the limit. `sequence` and `balanced` are 0; `lambda` has no
    such form.
    """
    found: dict[str, float] = dict.fromkeys(CLOSED, 0.0)
    length_N = length_N.double()
    for group in group_N.unique():
        length, advantage = length_N[group_N == group], advantage_N[group_N == group]
        positive = advantage > 0
        if positive.any():
            gap = length[positive].mean() - length[~positive].mean()
            part = -advantage[positive].sum() * gap / len(length_N)
            found["token"] += (part / length.mean()).item()
            found["token_batch"] += (part / length_N.mean()).item()
            found["constant"] += (part / limit).item()
    return found


def measure(stage: Stage) -> dict[str, Any]:
    """Measure the loss of each batch under each rule, from few to many correct responses."""
    responses = stage.sample(NUM_BATCHES * GROUPS_PER_BATCH)
    correct_P = (responses.score_N > 0).view(-1, GROUP_SIZE).double().mean(1)
    engine = stage.engine(optim={"lr": 0.0, "clip_grad": NO_CLIP})
    batches = []
    for groups in correct_P.argsort(stable=True).split(GROUPS_PER_BATCH):
        batch = responses.of(groups.tolist())
        old_N = engine.log_probs(batch)
        data = columns(batch, batch.advantage_N, old_N)
        closed = closed_forms(batch.length_N, batch.advantage_N, batch.group_N, stage.limit)
        found = {}
        for name, weight_N in weights(batch, stage.limit).items():
            expected = under_rule(batch.length_N, batch.advantage_N, weight_N)["pg_loss_expected"]
            found[name] = {
                "measured": engine.update(data, weight_N)["actor/pg_loss"],
                "metric": expected,
                "closed": closed.get(name, expected),
                # The loss without cancelling.
                "gross": (weight_N * batch.length_N * batch.advantage_N.abs()).mean().item(),
            }
        batches.append({"correct": correct_P[groups].mean().item(), "rules": found})
        stage.say(f"measured batch {len(batches)} of {NUM_BATCHES}")
    gaps = [
        abs(one["measured"] - one[key]) / one["gross"]
        for batch in batches
        for one in batch["rules"].values()
        for key in ("closed", "metric")
        if one["gross"]
    ]
    return {
        "batches": batches,
        "correlation": correlations(batches),
        "largest_deviation": max(gaps),
    }


def correlations(batches: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return Pearson's correlation of the measured loss and the share of correct responses.

    None where the loss is 0 but for rounding.
    """
    found = {}
    for name in batches[0]["rules"]:
        loss = torch.tensor([batch["rules"][name]["measured"] for batch in batches]).double()
        correct = torch.tensor([batch["correct"] for batch in batches]).double()
        varies = loss.abs().max() > 1e-6
        found[name] = torch.corrcoef(torch.stack([loss, correct]))[0, 1].item() if varies else None
    return found


def report(result: dict[str, Any]) -> list[str]:
    """Report the loss of each batch and its correlation with the share of correct responses."""
    batches, names = result["batches"], list(result["correlation"])
    rows = []
    for name in names:
        of_rule = [batch["rules"][name] for batch in batches]
        measured, closed = ([one[key] for one in of_rule] for key in ("measured", "closed"))
        correlation = result["correlation"][name]
        rows.append(
            (
                f"{name} (exponent {EXPONENT:g})" if name == "lambda" else name,
                *(f"{end(values):z.5f}" for end in (min, max) for values in (closed, measured)),
                f"{max(abs(x - y) for x, y in zip(measured, closed, strict=True)):.1e}",
                "-" if correlation is None else f"{correlation:+.2f}",
            )
        )
    head = (
        "rule",
        "lowest, closed form",
        "measured",
        "highest, closed form",
        "measured",
        "deviation",
        "correlation with correct",
    )
    correct = [batch["correct"] for batch in batches]
    return [
        f"The on-policy policy loss `actor/pg_loss` of {len(batches)} batches of "
        f"{GROUPS_PER_BATCH} groups, from {min(correct):.0%} to {max(correct):.0%} correct "
        f"responses, beside its closed form (of `lambda`: -(1/N) sum_i w_i length_i A_i).",
        "",
        *markdown_table(head, rows),
        "",
        "`sequence` and `balanced` give a loss of 0 for any share of correct responses. Under "
        "the others the loss is the gap between the mean lengths of incorrect and correct "
        "responses, times k A+, which is 0 if no response or every response is correct. The loss "
        "is similar with few and with many correct responses. If incorrect ones are longer, it "
        "first rises as more become correct, so it does not measure progress.",
        "",
        f"Largest deviation, from the closed form or the metric `aggregation/pg_loss_expected`, in "
        f"units of the loss without cancelling: {result['largest_deviation']:.1e}.",
    ]


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Draw measured against predicted, and measured against the share of correct responses."""
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(result["correlation"]):
        points = [batch["rules"][name] for batch in result["batches"]]
        measured = [point["measured"] for point in points]
        style = {"marker": "osD^v*"[number], "fillstyle": "none", "linestyle": "", "label": name}
        left.plot([point["closed"] for point in points], measured, **style)
        right.plot([100 * batch["correct"] for batch in result["batches"]], measured, **style)
    left.axline((0, 0), slope=1, color="gray", linestyle=":", label="prediction = measurement")
    left.set_xlabel("policy loss by the closed form")
    right.set_xlabel("correct responses of the batch (%)")
    for axes in (left, right):
        axes.set_ylabel("policy loss by the engine")
        axes.grid(alpha=0.3)
    left.legend()
