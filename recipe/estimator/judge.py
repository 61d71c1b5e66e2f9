"""Judge every rule by the kept gradients: bias, noise, gain and a real step, with intervals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from recipe.base.errors import UserError
from recipe.estimator.collect import Collected, mean_correct
from recipe.estimator.options import Options
from recipe.estimator.steps import RISE, Change, measured_changes
from recipe.maths.diagnostics import group_lengths, under_rule
from recipe.maths.estimators import (
    ADVANTAGES,
    Estimate,
    Rows,
    batches_of,
    between,
    estimates,
    noise_by_verdict,
    products,
)
from recipe.maths.rules import RULES, Rule, with_limit, with_positive_factor
from recipe.sampling.groups import SampledGroups

# Partitions of the same responses into batches, whose results are averaged.
PARTITIONS = 8
# Learned scalar of the rule `lambda`: at 0 it is `token`.
EXPONENT = -2.0
LEVEL = 0.95


def with_rules(options: Options, limit: float) -> dict[str, Rule]:
    """Return the rules that are asked for."""
    every = with_limit(limit) | {"lambda": partial(RULES["lambda"], exponent=EXPONENT)}
    chosen = {name: every[name] for name in options.rules}
    return with_positive_factor(chosen, options.positive_factor)


def judge(kept: Collected, options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measures of every rule, with intervals.

    Raises:
        UserError: noise hides the gradient.
    """
    responses, rules = kept.responses, with_rules(options, kept.limit)
    square_N = kept.model.logit_squares(responses) if options.advantage == "oblr" else None
    rows = Rows(responses.length_N, responses.score_N, responses.group_N, square_N)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = [
        batches_of(options.prompts, options.batch_groups, generator) for _ in range(PARTITIONS)
    ]
    found: dict[str, dict[str, Estimate]] = {}
    true_norm: dict[str, float] = {}
    for metric, gram_NN in kept.grams.items():
        of_metric = [
            products(gram_NN, rows, rules, options.advantage, batch_P) for batch_P in drawn
        ]
        found[metric] = estimates(of_metric)
        square = torch.stack([between(part.true_BB) for part in of_metric]).mean().item()
        true_norm[metric] = max(square, 0.0) ** 0.5
    say("computed the measures of all rules")
    if not all(true_norm.values()):
        raise UserError(
            f"{options.prompts} prompts do not tell the gradient of the expected score from 0. "
            f"Give more --prompts."
        )
    changes = {}
    if options.step_batches:
        batch_P = drawn[0].where(drawn[0] < options.step_batches, -1)
        changes = measured_changes(
            kept.model,
            kept.scale,
            responses,
            rows,
            kept.fresh,
            rules,
            options.advantage,
            batch_P,
            true_norm,
            say,
        )
    return {
        "options": {**options._asdict(), "rules": list(options.rules)},
        "correct": mean_correct(responses),
        "num_mixed": len(responses.mixed()),
        "rise": RISE,
        "true_norm": true_norm,
        "sketch_error": 1 / kept.sketch**0.5 if kept.sketch else 0.0,
        **lengths(responses),
        "noise": {
            metric: {
                key: number(torch.tensor(value))
                for key, value in noise_by_verdict(gram_NN.diagonal(), rows).items()
            }
            for metric, gram_NN in kept.grams.items()
        },
        "rules": {
            name: of_rule(place, rule, rows, options, found, changes)
            for place, (name, rule) in enumerate(rules.items())
        },
    }


def lengths(responses: SampledGroups) -> dict[str, float | None]:
    """Return length gap and length variation, means over groups."""
    groups = group_lengths(responses.length_N, responses.advantage_N, responses.group_N)
    return {
        "length": responses.length_N.double().mean().item(),
        "length_gap": number(groups.gap_P.nanmean()),
        "length_variation": number(groups.variation_P.nanmean()),
    }


def of_rule(
    place: int,
    rule: Rule,
    rows: Rows,
    options: Options,
    found: dict[str, dict[str, Estimate]],
    changes: dict[str, Change],
) -> dict[str, Any]:
    """Return the numbers of one rule: each value and its difference to the baseline's.

    Half widths are of 95 % intervals. Those of a difference are also given for all differences
    together (Bonferroni).
    """
    advantage_N = ADVANTAGES[options.advantage](rows)
    weight_N = rule(rows.length_N, advantage_N, rows.group_N)
    baseline = list(options.rules).index(options.baseline)
    num_batches = options.prompts // options.batch_groups
    numbers: dict[str, Any] = {
        "share_negative": under_rule(rows.length_N, advantage_N, weight_N)[
            "objective_share_negative"
        ]
    }
    measured: list[tuple[str, Estimate | Change, int]] = [
        (f"{key}/{metric}", estimate, num_batches)
        for metric in found
        for key, estimate in found[metric].items()
    ]
    measured += [
        (f"measured/{metric}", change, min(options.step_batches, num_batches))
        for metric, change in changes.items()
    ]
    comparisons = max(len(options.rules) - 1, 1)
    for key, estimate, num in measured:
        wide = float(student.ppf(1 - (1 - LEVEL) / 2, num - 1))
        together = float(student.ppf(1 - (1 - LEVEL) / 2 / comparisons, num - 1))
        error = estimate.standard_error(baseline)[place]
        numbers[key] = {
            "value": number(estimate.value_R[place]),
            "half_width": number(wide * estimate.standard_error()[place]),
            "difference": number(estimate.value_R[place] - estimate.value_R[baseline]),
            "difference_half_width": number(wide * error),
            "difference_half_width_together": number(together * error),
        }
    return numbers


def number(value: Tensor) -> float | None:
    """Return a number for JSON; None where it is not defined."""
    return value.item() if value.isfinite() else None
