"""DisCO (arXiv:2505.12366): an objective of its own, with neither advantages nor an aggregation.

It separates correct from incorrect responses of a prompt by a score s of the current policy: the
mean over a response's tokens of log pi (log-likelihood) or of pi / pi_old (likelihood ratio):

    J = (1/P) sum_groups  mean_{i correct} s_i - tau * log mean_{j incorrect} exp(s_j / tau)

over all P groups of a mini-batch, of which those without both verdicts add nothing. tau -> infinity
is the plain mean of the incorrect ones' scores, DisCO-b. What is minimised is -J + R with

    R = (beta / 2) * max(KL - delta, 0)^2        KL = mean over tokens of log pi_old - log pi

Both couple the responses of a mini-batch, and still its gradient is a sum over responses,

    grad(-J + R) = -sum_i slope_i * grad s_i + pressure * grad KL

with slope_i = dJ/ds_i and pressure = beta * max(KL - delta, 0), which are numbers once the scores
of the whole mini-batch are known. So they are computed first, and the sum may be split at will.

Axes: `_N` the responses of a mini-batch, `_T` response tokens. Groups are numbered from 0.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor


@dataclass(frozen=True)
class DiscoSettings:
    """Hold the section `objective.disco`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    score: Literal["log_likelihood", "likelihood_ratio"]
    tau: Annotated[float, Gt(0)]
    """Temperature of the mean over incorrect responses; infinity for DisCO-b."""
    kl_limit: Annotated[float, Ge(0), Lt(math.inf)]
    """delta, the KL divergence up to which there is no penalty."""
    kl_penalty: Annotated[float, Ge(0), Lt(math.inf)]
    """beta."""
    kl: Literal["k1", "low_var"]
    """Estimator of KL(pi_old, pi): `k1`, or the low-variance one."""


def scores(log_prob_NT: Tensor, old_log_prob_NT: Tensor, mask_NT: Tensor, score: str) -> Tensor:
    """Return the score s of each response; 0 where it has no token."""
    term_NT = log_prob_NT if score == "log_likelihood" else (log_prob_NT - old_log_prob_NT).exp()
    return (term_NT * mask_NT).sum(-1) / mask_NT.sum(-1).clamp(min=1)


def kl_terms(log_prob_NT: Tensor, old_log_prob_NT: Tensor, kl: str) -> Tensor:
    """Return what each token adds to KL(pi_old, pi) by the estimator `k1` or `low_var`."""
    change_NT = log_prob_NT - old_log_prob_NT
    return -change_NT if kl == "k1" else change_NT.exp() - 1 - change_NT


def slopes(
    score_N: Tensor, correct_N: Tensor, group_N: Tensor, tau: float
) -> tuple[Tensor, Tensor]:
    """Return J of a mini-batch and its derivative by each score.

    Args:
        score_N: s.
        correct_N: the verdict, bool.
        group_N: number of the group; -1 for rows that are none, as padding.
        tau: infinity for the mean of the incorrect responses' scores.

    Returns:
        J, a scalar; slope_N = dJ/ds_i.
    """
    there_N = group_N >= 0
    slope_N = torch.zeros_like(score_N)
    if not there_N.any():
        return score_N.new_zeros(()), slope_N
    score_C, correct_C = score_N[there_N], correct_N[there_N]
    _, group_C = group_N[there_N].unique(return_inverse=True)
    incorrect_C = ~correct_C
    correct_P, incorrect_P = (
        torch.bincount(group_C, weights=is_C.double()) for is_C in (correct_C, incorrect_C)
    )
    mixed_P = (correct_P > 0) & (incorrect_P > 0)
    felt_C = mixed_P[group_C]
    # From the highest score of the wrong ones down, so that the exponential stays finite.
    scaled_C = score_C / tau
    highest_P = scaled_C.new_full(correct_P.shape, -math.inf).scatter_reduce(
        0, group_C[incorrect_C], scaled_C[incorrect_C], "amax"
    )
    part_C = (scaled_C - highest_P[group_C]).exp().where(incorrect_C & felt_C, 0.0)
    whole_P = torch.zeros_like(highest_P).scatter_add(0, group_C, part_C)
    share_C = part_C / whole_P[group_C]
    by_score_C = torch.where(correct_C, 1 / correct_P[group_C], -share_C).where(felt_C, 0.0)
    num_groups = len(correct_P)
    slope_N[there_N] = by_score_C.to(slope_N.dtype) / num_groups
    of_correct_P, of_incorrect_P = (
        torch.zeros_like(highest_P).scatter_add(0, group_C, score_C * is_C / count_P[group_C])
        for is_C, count_P in ((correct_C, correct_P), (incorrect_C, incorrect_P))
    )
    if math.isfinite(tau):
        of_incorrect_P = tau * (highest_P + (whole_P / incorrect_P).log())
    value = (of_correct_P - of_incorrect_P)[mixed_P].sum() / num_groups
    return value, slope_N
