"""Take one real step along each rule's gradient, and measure what it does to the expected score.

The score after the step is measured on responses to other prompts that were sampled before it, by
importance weights: J(new) - J(old) = E[(pi_new(y|x) / pi_old(y|x) - 1) * (r - b)], where b is the
mean score of the group's others. The same responses serve all rules, so differences between rules
have little noise. Axes: `_N` fresh responses, `_P` their groups, `_T` batches, `_R` rules.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recipe.base.errors import UserError
from recipe.estimator.gradients import METRICS
from recipe.estimator.model import Model
from recipe.estimator.ranks import added, num_ranks
from recipe.maths.estimators import (
    Rows,
    coefficients,
    leave_one_out,
    weighted,
)
from recipe.maths.rules import Rule
from recipe.sampling.groups import SampledGroups

# The rise of the score, in its units, that a step of this length along the true gradient has.
RISE = 0.02
# Memory for the gradients of several rules at a time.
BYTES = 2**33


class Change(NamedTuple):
    """Hold the change of the score under each rule."""

    by_batch_RTP: Tensor
    """Hold it for each group of fresh responses, after a step along each batch's gradient."""

    @property
    def value_R(self) -> Tensor:
        """Return the mean change."""
        return self.by_batch_RTP.mean((1, 2))

    def standard_error(self, baseline: int | None = None) -> Tensor:
        """Return the error of each mean, or of its difference to a rule, (R,).

        Batches and fresh prompts are both random, and crossed: the variances of both means add.
        """
        changed = self.by_batch_RTP
        if baseline is not None:
            changed = changed - changed[baseline]
        _, num_batches, num_groups = changed.shape
        of_batches = changed.mean(2).var(1) / num_batches
        return (of_batches + changed.mean(1).var(1) / num_groups).sqrt()


def measured_changes(
    model: Model,
    scale: Sequence[Tensor],
    responses: SampledGroups,
    rows: Rows,
    fresh: SampledGroups,
    rules: Mapping[str, Rule],
    kind: str,
    batch_P: Tensor,
    true_norm: Mapping[str, float],
    say: Callable[[str], None],
) -> dict[str, Change]:
    """Return the change of the score after steps of equal length, by the metric of the step.

    Args:
        model: the model; its parameters are as before at the end.
        scale: AdamW's P for each parameter.
        responses: responses that the batches are made of.
        rows: the same responses' lengths, scores and groups.
        fresh: responses to other prompts.
        rules: the rules by name.
        kind: how advantages are normalised.
        batch_P: the batch of each group of `rows`, or -1.
        true_norm: norm of the true gradient in each metric, which sets the length of the step.
        say: shows progress.

    Raises:
        UserError: no fresh group has correct and incorrect responses.
    """
    factor_RTN = torch.stack(
        [coefficients(rows, batch_P[rows.group_N], weighted(rule, kind)) for rule in rules.values()]
    )
    num_rules, num_batches, _ = factor_RTN.shape
    num_groups, size_P = int(fresh.group_N.max()) + 1, torch.bincount(fresh.group_N)
    gain_N = leave_one_out(fresh.score_N, fresh.group_N)
    # Groups without a difference in score add 0 to the change.
    counted = gain_N.nonzero()[:, 0]
    if not len(counted):
        raise UserError(
            f"all {num_groups} fresh prompts have responses of one score, so no step can change "
            f"what is measured on them. Give more with --fresh, or --step-batches 0."
        )
    fresh, gain_N = fresh.rows(counted), gain_N[counted]
    before_N = model.log_probs(fresh)
    found = {name: torch.zeros(num_rules, num_batches, num_groups).double() for name in METRICS}
    # The same on all ranks, whose shards may differ in size.
    at_once = max(1, BYTES * num_ranks() // (4 * sum(p.numel() for p in model.trained)))
    for batch in range(num_batches):
        for begin in range(0, num_rules, at_once):
            some = slice(begin, begin + at_once)
            gradients = model.combined(responses, factor_RTN[some, batch])
            for rule in range(num_rules)[some]:
                gradient = [part[rule - begin] for part in gradients]
                for metric in METRICS:
                    direction = gradient
                    if metric == "adamw":
                        direction = [
                            part * p.flatten() for part, p in zip(gradient, scale, strict=True)
                        ]
                    square = product(gradient, direction)
                    if square == 0:
                        continue
                    length = RISE / true_norm[metric] / square**0.5
                    with model.moved(direction, length):
                        ratio_N = (model.log_probs(fresh) - before_N).exp()
                    change_N = (ratio_N - 1) * gain_N
                    sums_P = torch.bincount(fresh.group_N, change_N, minlength=num_groups)
                    found[metric][rule, batch] = sums_P / size_P
        say(f"took a step along each rule's gradient of {batch + 1} of {num_batches} batches")
    return {name: Change(by_batch) for name, by_batch in found.items()}


def product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the inner product of two vectors over all parameters of all ranks."""
    parts = [(a * b).sum().double().cpu() for a, b in zip(one, other, strict=True)]
    return added(torch.stack(parts).sum()).item()
