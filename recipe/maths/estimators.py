"""Measure aggregation rules as estimators of the policy gradient.

At a fixed policy the gradient is linear in the weights. With G_i = grad sum_t log pi(y_it | x) of
each response, the on-policy gradient of a batch under any rule is

    b = (1/n) * sum_i w_i * A_i * G_i

So the inner products K_ij = <G_i, G_j> tell everything about every rule. The reference is the
gradient of the expected score: u = (1/n) * sum_i (r_i - mean of the group's others) * G_i is
unbiased for it. Products of one batch with another hold no common noise (U-statistics), so they
are unbiased where products of a batch with itself are not.

Axes: `_N` responses, `_P` groups, `_B` disjoint batches, `_R` rules, `_J` batches left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .advantages.batch_std import batch_std_advantages
from .advantages.maxrl import maxrl_advantages
from .advantages.shrinkage import shrinkage_advantages
from .rules import Rule
from .within import centred_by_weight, centred_within, normalised_within

# How many batches are averaged in the gain under momentum.
AVERAGED = (4, 16)


class Rows(NamedTuple):
    """Hold the responses whose gradients are known."""

    length_N: Tensor
    score_N: Tensor
    group_N: Tensor
    """Numbered from 0."""
    square_N: Tensor | None = None
    """|d log pi / d logits|^2, added up over the tokens of a response; only `oblr` reads it."""

    def of(self, chosen: Tensor) -> "Rows":
        """Return the responses at these positions, with their groups numbered from 0."""
        return Rows(
            self.length_N[chosen],
            self.score_N[chosen],
            self.group_N[chosen].unique(return_inverse=True)[1],
            None if self.square_N is None else self.square_N[chosen],
        )


def gradient_weighted(rows: Rows) -> Tensor:
    """Return the advantages of `recipe/maths/advantages/oblr.py`."""
    assert rows.square_N is not None
    return centred_by_weight(rows.score_N, rows.square_N, rows.group_N)


ADVANTAGES: Mapping[str, Callable[[Rows], Tensor]] = {
    # r - mean of the group, over its standard deviation, as GRPO does in verl.
    "std": lambda rows: normalised_within(rows.score_N, rows.group_N, 1e-6),
    "none": lambda rows: centred_within(rows.score_N, rows.group_N),
    "batch_std": lambda rows: batch_std_advantages(rows.score_N, rows.group_N),
    "maxrl": lambda rows: maxrl_advantages(rows.score_N > 0, rows.group_N),
    "opo": lambda rows: centred_by_weight(rows.score_N, rows.length_N, rows.group_N),
    "oblr": gradient_weighted,
    "shrinkage": lambda rows: shrinkage_advantages(rows.score_N, rows.group_N)[0],
    "reinforce": lambda rows: rows.score_N.double(),
}
"""The advantages of one batch of responses, by the name of the option `--advantage`."""


def leave_one_out(score_N: Tensor, group_N: Tensor) -> Tensor:
    """Return each score minus the mean of the group's others, which does not depend on it."""
    count_N = torch.bincount(group_N)[group_N]
    return centred_within(score_N, group_N) * count_N / (count_N - 1)


def batches_of(num_groups: int, per_batch: int, generator: torch.Generator) -> Tensor:
    """Spread groups over disjoint batches by chance.

    Returns:
        batch_P, the batch of each group, or -1 for those that fill no batch.
    """
    num_batches = num_groups // per_batch
    batch_P = torch.full((num_groups,), -1)
    chosen = torch.randperm(num_groups, generator=generator)[: num_batches * per_batch]
    batch_P[chosen] = torch.arange(num_batches).repeat_interleave(per_batch)
    return batch_P


def coefficients(
    rows: Rows,
    batch_N: Tensor,
    of_batch: Callable[[Rows], Tensor],
) -> Tensor:
    """Return the factor of each G_i in the gradient of each batch, (B, N).

    Args:
        rows: all responses.
        batch_N: the batch of each, or -1.
        of_batch: returns w_i * A_i for the responses of one batch.
    """
    num_batches = int(batch_N.max()) + 1
    found_BN = torch.zeros(num_batches, len(batch_N), dtype=torch.double)
    for batch in range(num_batches):
        chosen = (batch_N == batch).nonzero()[:, 0]
        found_BN[batch, chosen] = of_batch(rows.of(chosen)) / len(chosen)
    return found_BN


def weighted(rule: Rule | None, kind: str) -> Callable[[Rows], Tensor]:
    """Return w_i * A_i of a rule; without a rule, A_i."""

    def of_batch(rows: Rows) -> Tensor:
        advantage_N = ADVANTAGES[kind](rows)
        if rule is None:
            return advantage_N
        return rule(rows.length_N, advantage_N, rows.group_N) * advantage_N

    return of_batch


class Products(NamedTuple):
    """Hold inner products between the batches of one partition."""

    own_RBB: Tensor
    """<b_k, b_l> under each rule."""
    with_true_RBB: Tensor
    """<b_k, u_l>."""
    true_BB: Tensor
    """<u_k, u_l>."""
    with_objective_RBB: Tensor
    """<b_k, a_l>, where a is the batch gradient with all weights 1: of the objective that these
    advantages have, whose groups are divided by their standard deviation under `std`."""
    objective_BB: Tensor
    """<a_k, a_l>."""

    def without(self, batch: int) -> "Products":
        """Return the products without one batch."""
        kept = torch.arange(self.true_BB.shape[0]) != batch
        return Products(*(matrix[..., kept, :][..., kept] for matrix in self))


def products(
    gram_NN: Tensor, rows: Rows, rules: Mapping[str, Rule], kind: str, batch_P: Tensor
) -> Products:
    """Return the inner products of one partition.

    Args:
        gram_NN: <G_i, G_j>, float64.
        rows: the responses.
        rules: the rules by name; their order is the axis `_R`.
        kind: how advantages are normalised.
        batch_P: the batch of each group, from `batches_of`.
    """
    batch_N = batch_P[rows.group_N]
    true_BN = coefficients(rows, batch_N, lambda part: leave_one_out(part.score_N, part.group_N))
    objective_BN = coefficients(rows, batch_N, weighted(None, kind))
    rule_RBN = torch.stack(
        [coefficients(rows, batch_N, weighted(rule, kind)) for rule in rules.values()]
    )
    rule_gram_RBN = rule_RBN @ gram_NN
    return Products(
        own_RBB=rule_gram_RBN @ rule_RBN.mT,
        with_true_RBB=rule_gram_RBN @ true_BN.T,
        true_BB=true_BN @ gram_NN @ true_BN.T,
        with_objective_RBB=rule_gram_RBN @ objective_BN.T,
        objective_BB=objective_BN @ gram_NN @ objective_BN.T,
    )


def between(matrix_BB: Tensor) -> Tensor:
    """Return the mean over pairs of different batches, in the last two dimensions."""
    num = matrix_BB.shape[-1]
    diagonal = matrix_BB.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (matrix_BB.sum((-2, -1)) - diagonal) / (num * (num - 1))


def measures(found: Products) -> dict[str, Tensor]:
    """Return each measure under each rule, (R,); NaN where noise hides the signal.

    Returns:
        cosine: between the expected batch gradient and the true gradient; 1 is unbiased in
            direction. cosine_objective: the same with the gradient of the rule's own objective.
        snr: squared norm of the expected batch gradient over its variance (its trace).
        gain_own_norm: expected rise of the score by a step of length 1 along a batch's gradient,
            over that of a step along the true gradient.
        gain_rms: the same where steps have length 1 in the root mean square over batches.
        gain_rms_M: the same for the mean of M batches.
        norm: root mean square of the batch gradient's norm.
    """
    square_RB = found.own_RBB.diagonal(dim1=-2, dim2=-1)
    signal_R, square_R = between(found.own_RBB), square_RB.mean(-1)
    noise_R = square_R - signal_R
    along_R, true = between(found.with_true_RBB), between(found.true_BB).sqrt()
    along_objective_R = between(found.with_objective_RBB)
    # A batch without a mixed group has no gradient, and its step gains nothing.
    scale_RB = square_RB.sqrt().where(square_RB > 0, torch.inf)
    return {
        "cosine": along_R / (signal_R.sqrt() * true),
        "cosine_objective": along_objective_R / (signal_R * between(found.objective_BB)).sqrt(),
        "snr": signal_R / noise_R,
        "gain_own_norm": between(found.with_true_RBB / scale_RB[..., None]) / true,
        "gain_rms": along_R / (square_R.sqrt() * true),
        **{
            f"gain_rms_{num}": along_R / ((signal_R + noise_R / num).sqrt() * true)
            for num in AVERAGED
        },
        "norm": square_R.sqrt(),
    }


def noise_by_verdict(square_N: Tensor, rows: Rows) -> dict[str, float]:
    """Return how noisy the gradients of correct and of incorrect responses are.

    Args:
        square_N: |G_i|^2, nearly all of which is variance.
        rows: the responses; a score above 0 is correct.

    Returns:
        square_correct, square_incorrect: their means. slope_correct, slope_incorrect: of log
        |G|^2 over log length within the verdict: 1 if tokens are independent, 2 if they move
        together.
    """
    found = {}
    for name, chosen_N in (("correct", rows.score_N > 0), ("incorrect", rows.score_N <= 0)):
        square, length = square_N[chosen_N], rows.length_N[chosen_N].double().log()
        found[f"square_{name}"] = square.mean().item()
        centred = length - length.mean()
        found[f"slope_{name}"] = ((centred @ square.log()) / centred.square().sum()).item()
    return found


class Estimate(NamedTuple):
    """Hold a measure of each rule, and what it is without each batch of each partition."""

    value_R: Tensor
    left_out_JR: Sequence[Tensor]
    """One (J, R) tensor for each partition."""

    def standard_error(self, baseline: int | None = None) -> Tensor:
        """Return the jackknife's standard error of each value, (R,), or of its difference.

        The jackknife leaves out one batch at a time. The value is a mean over partitions, so the
        root mean square of their errors is on the safe side.

        Args:
            baseline: position of the rule that is subtracted; None for the values themselves.
        """
        squares = []
        for left_JR in self.left_out_JR:
            changed_JR = left_JR if baseline is None else left_JR - left_JR[:, baseline, None]
            num = len(changed_JR)
            squares.append((num - 1) ** 2 / num * changed_JR.var(0))
        return torch.stack(squares).mean(0).sqrt()


def estimates(partitions: Sequence[Products]) -> dict[str, Estimate]:
    """Return every measure over partitions of the same responses into batches."""
    whole = [measures(found) for found in partitions]
    left_out = [
        [measures(found.without(batch)) for batch in range(found.true_BB.shape[0])]
        for found in partitions
    ]
    return {
        key: Estimate(
            torch.stack([found[key] for found in whole]).mean(0),
            [torch.stack([found[key] for found in without]) for without in left_out],
        )
        for key in whole[0]
    }
