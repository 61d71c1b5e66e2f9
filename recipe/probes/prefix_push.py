"""Measure the push on tokens that a whole group shares (arXiv:2601.05002, proposition 1).

On-policy, the gradient of the objective by a common prefix is the following, whatever comes after:

    W_g * gradient of log pi(prefix)          W_g = (1/G) * sum_i w_i * A_i

Axes: `_N` the responses of one group.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from tensordict import TensorDict
from torch import Tensor

from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.maths.conflict import GtpoSettings, conflict_runs, token_factors
from recipe.maths.diagnostics import common_prefix, prefix_push
from recipe.objectives.policy_gradient import FACTOR_COLUMN
from recipe.probes.stage import EXPONENT, NO_CLIP, Engine, Stage, columns, weights
from recipe.sampling.groups import SampledGroups

NUM_SAMPLED, NUM_GROUPS = 24, 12
# The rule `token` with the factors of GTPO (arXiv:2508.03772) on the tokens in conflict.
GTPO, FACTORS = "token, GTPO", GtpoSettings(positive=2.0, negative=0.0, as_code=False)


def closed_forms(length_N: Tensor, advantage_N: Tensor) -> dict[str, float]:
    """Return W_g of a group under each rule, from lengths and advantages of binary rewards alone.

    With k positive responses of advantage A+, and advantages of mean 0,

        balanced   (k A+ / G) * (1 / mean length+ - 1 / mean length-)
        sequence   (k A+ / G) * (1 / H+ - 1 / H-)           H the harmonic mean of the lengths
        lambda     (1/G) * sum_i f_i A_i / mean length       f_i as in arXiv:2510.06870
        GTPO       2 k A+ / (G * mean length)                it trains no common token where A < 0
        the rest   0, as their weights are constant within a group
    """
    length_N, positive_N = length_N.double(), advantage_N > 0
    push = advantage_N[positive_N].sum() / len(advantage_N)
    positive, negative = length_N[positive_N], length_N[~positive_N]
    # Equal lengths have no spread, and z = 0.
    z_N = (length_N - length_N.mean()) / length_N.std(correction=0).clamp(min=1e-300)
    factor_N = len(length_N) * torch.softmax((1 + z_N / 9) ** EXPONENT, 0)
    found = {
        "sequence": push * ((1 / positive).mean() - (1 / negative).mean()),
        "balanced": push * (1 / positive.mean() - 1 / negative.mean()),
        "lambda": (factor_N * advantage_N).mean() / length_N.mean(),
        GTPO: FACTORS.positive * push / length_N.mean(),
    }
    nothing = dict.fromkeys(("token", "token_batch", "constant"), 0.0)
    return nothing | {name: value.item() for name, value in found.items()}


def measure(stage: Stage) -> dict[str, Any]:
    """Measure W of each group under each rule, and the prefixes' share of the gradient.

    Raises:
        UserError: too few groups have correct and incorrect responses with a common prefix.
    """
    sampled = stage.sample(NUM_SAMPLED)
    felt = [g for g in sampled.mixed() if prefixes(sampled.of([g])).item() > 0]
    if len(felt) < NUM_GROUPS:
        raise UserError(
            f"{len(felt)} of {NUM_SAMPLED} groups have correct and incorrect responses with a "
            f"common prefix, and {NUM_GROUPS} are needed. Try another --seed."
        )
    responses = sampled.of(felt[:NUM_GROUPS])
    prefix_P, weight = prefixes(responses), weights(responses, stage.limit)
    weight[GTPO] = weight["token"]
    engine = stage.engine(optim={"lr": 0.0, "clip_grad": NO_CLIP})
    old_N = engine.log_probs(responses)
    groups = []
    for group in range(NUM_GROUPS):
        rows = (responses.group_N == group).nonzero()[:, 0]
        found = of_group(
            engine,
            responses.of([group]),
            {name: weight_N[rows] for name, weight_N in weight.items()},
            [old_N[row] for row in rows],
            int(prefix_P[group]),
        )
        groups.append(found)
        stage.say(f"measured group {group + 1} of {NUM_GROUPS}")
    shares = {}
    for name, weight_N in weight.items():
        part, whole = (
            engine.gradient(batch_of(name, responses, old_N, trained_N), weight_N).norm()
            for trained_N in (prefix_P[responses.group_N], None)
        )
        shares[name] = (part / whole).item()
        stage.say(f"measured the prefixes' share of the gradient under {name}")
    deviations = [
        group["rules"][name][key]
        for group in groups
        for name in weight
        for key in ("deviation", "residual")
    ]
    return {"groups": groups, "share": shares, "largest_deviation": max(deviations)}


def prefixes(responses: SampledGroups) -> Tensor:
    """Return the number of tokens that all responses of each group begin with."""
    length_N = responses.length_N
    begin_N = length_N.cumsum(0) - length_N
    return common_prefix(torch.cat(responses.token_N), begin_N, length_N, responses.group_N)


def batch_of(
    name: str, responses: SampledGroups, old_N: list[Tensor], trained_N: Tensor | None
) -> TensorDict:
    """Return responses as a mini-batch, under GTPO with its factors."""
    advantage_N = responses.advantage_N
    data = columns(responses, advantage_N, old_N, trained_N)
    if name == GTPO:
        first_N, last_N = conflict_runs(responses.token_N, advantage_N, responses.group_N)
        facts = (x.tolist() for x in (responses.length_N, first_N, last_N, advantage_N > 0))
        factors = [
            token_factors(length, first, last, is_positive, FACTORS)
            for length, first, last, is_positive in zip(*facts, strict=True)
        ]
        data[FACTOR_COLUMN] = torch.nested.as_nested_tensor(factors, layout=torch.jagged)
    return data


def of_group(
    engine: Engine,
    responses: SampledGroups,
    weight: dict[str, Tensor],
    old_N: list[Tensor],
    prefix: int,
) -> dict[str, Any]:
    """Return W of one group: the closed form, the logged metric, and the engine's gradient.

    The loss of the group with only the prefix in the mask has the gradient -W * h, where h is that
    of one row with weight and advantage 1; projecting on it gives W, and leaves nothing. Both are
    in units of (1/G) * sum_i w_i * |A_i|, the push without cancelling.
    """
    length_N, advantage_N = responses.length_N, responses.advantage_N
    trained_N = torch.full_like(length_N, prefix)
    one = SampledGroups(
        responses.prompt_N[:1], responses.token_N[:1], torch.ones(1), torch.zeros(1)
    )
    alone = columns(one, torch.ones(1), old_N[:1], trained_N[:1])
    of_prefix = engine.gradient(alone, torch.ones(1))
    predicted = closed_forms(length_N, advantage_N)
    found = {}
    for name, weight_N in weight.items():
        gradient = engine.gradient(batch_of(name, responses, old_N, trained_N), weight_N)
        measured = (gradient @ of_prefix / of_prefix.square().sum()).item()
        gross = (weight_N * advantage_N.abs()).mean().item()
        residual = (gradient - measured * of_prefix).norm() / of_prefix.norm()
        # The metric is of a rule's weights, and factors by token come after them.
        of_weights = prefix_push(advantage_N, responses.group_N, weight_N).item()
        found[name] = {
            "predicted": predicted[name],
            "metric": None if name == GTPO else of_weights,
            "measured": measured,
            "deviation": abs(measured - predicted[name]) / gross,
            "residual": residual.item() / gross,
        }
    return {
        "prefix": prefix,
        "correct": int((responses.score_N > 0).sum()),
        "lengths": length_N.tolist(),
        "rules": found,
    }


def report(result: dict[str, Any]) -> list[str]:
    """Report the measured push beside the closed form."""
    groups = result["groups"]
    rows = []
    for name, share in result["share"].items():
        of_rule = [group["rules"][name] for group in groups]

        def mean(key: str, of_rule: list[dict[str, float]] = of_rule) -> str:
            return f"{sum(found[key] for found in of_rule) / len(of_rule):+z.6f}"

        rows.append(
            (
                f"{name} (exponent {EXPONENT:g})" if name == "lambda" else name,
                mean("predicted"),
                "-" if name == GTPO else mean("metric"),
                mean("measured"),
                *(
                    f"{max(found[key] for found in of_rule):.1e}"
                    for key in ("deviation", "residual")
                ),
                f"{share:.2%}",
            )
        )
    head = (
        "rule",
        "W, closed form",
        "W, metric",
        "W, engine",
        "deviation",
        "residual",
        "prefix share",
    )
    tokens = [group["prefix"] for group in groups]
    return [
        f"The push W on the tokens that all responses of a group begin with, mean over "
        f"{len(groups)} groups with prefixes of {min(tokens)} to {max(tokens)} tokens: the closed "
        f"form from lengths and rewards, the metric `aggregation/prefix_push`, and the engine's "
        f"gradient projected on that of the prefix's log-prob.",
        "",
        *markdown_table(head, rows),
        "",
        "Deviation of the engine from the closed form and residual, the part of the gradient that "
        "is not along the prefix's, are the largest over the groups, in units of the push without "
        "cancelling. Prefix share is the norm of the gradient of the prefix tokens alone over that "
        "of all tokens.",
        "",
        f"Largest deviation: {result['largest_deviation']:.1e}.",
    ]


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Draw W measured against predicted, and the prefixes' share of the gradient."""
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(result["share"]):
        points = [group["rules"][name] for group in result["groups"]]
        left.plot(
            [1e3 * point["predicted"] for point in points],
            [1e3 * point["measured"] for point in points],
            "osD^v*P"[number],
            # Rules that agree lie on each other: smaller and smaller, all stay visible.
            markersize=12 - 1.5 * number,
            alpha=0.8,
            label=name,
        )
    left.axline((0, 0), slope=1, color="gray", linestyle=":", label="prediction = measurement")
    left.set_xlabel("W by the closed form (1/1000 per token)")
    left.set_ylabel("W by the engine's gradient (1/1000 per token)")
    left.legend()
    left.grid(alpha=0.3)
    names = list(result["share"])
    bars = right.barh(names[::-1], [100 * result["share"][name] for name in names[::-1]])
    right.bar_label(bars, fmt="%.2f %%", padding=3)
    right.margins(x=0.15)
    right.set_xlabel("gradient norm of prefix tokens over that of all tokens (%)")
