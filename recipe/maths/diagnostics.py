"""Measure what an aggregation rule does to a train batch.

Computed on the driver over whole groups (axes: `_N` responses, `_P` groups, numbered from 0,
`_T` the tokens of all responses in a row). A response's share of the objective is
w_i * length_i * |A_i|, normalised over the batch. Keys avoid "max", "min", "sum" and "total": verl
picks the reducer of a metric from them. A quantity that a batch does not define, such as the
length of positive responses where there are none, is left out.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


def diagnose(
    length_N: Tensor,
    advantage_N: Tensor,
    group_N: Tensor,
    weights: Mapping[str, Tensor],
    chosen: str | None,
    prefix_P: Tensor | None = None,
) -> dict[str, float]:
    """Return the metrics of a batch under its rule and, counterfactually, under every other.

    Args:
        length_N: trained tokens of each response, > 0.
        advantage_N: one group-relative advantage per response.
        group_N: number of the response's group.
        weights: weight_N under each rule, by name; `sequence` among them.
        chosen: the rule that trains, if one does.
        prefix_P: tokens that all responses of a group begin with, from `common_prefix`.
    """
    metrics: dict[str, float] = {}
    for sign, is_sign_N in (("positive", advantage_N > 0), ("negative", advantage_N < 0)):
        metrics[f"num_{sign}"] = int(is_sign_N.sum())
        tokens = int((length_N * is_sign_N).sum())
        metrics[f"tokens_{sign}"] = tokens
        if metrics[f"num_{sign}"]:
            metrics[f"length_{sign}"] = tokens / metrics[f"num_{sign}"]
    groups = group_lengths(length_N, advantage_N, group_N)
    metrics |= {
        "num_groups": int(groups.exists_P.sum()),
        "num_zero_groups": int(groups.zero_P.sum()),
    }
    for name, value_P in (("gap", groups.gap_P), ("variation", groups.variation_P)):
        metrics |= spread_over_groups(f"length_{name}", value_P)
    under = {
        name: under_rule(length_N, advantage_N, weight_N) for name, weight_N in weights.items()
    }
    mean_N = groups.mean_P[group_N]
    for name, weight_N in weights.items():
        # In units of the rule token's.
        factor_N = weight_N * mean_N
        under[name]["weight_relative_std"] = (factor_N.std(correction=0) / factor_N.mean()).item()
    if prefix_P is not None:
        metrics |= spread_over_groups("prefix_length", prefix_P.where(groups.exists_P, torch.nan))
        for name, weight_N in weights.items():
            push_P = prefix_push(advantage_N, group_N, weight_N)
            felt_P = groups.mixed_P & (prefix_P > 0)
            if felt_P.any():
                under[name]["prefix_push"] = push_P[felt_P].mean().item()
    by_sequence = under["sequence"].get("sign_length_coupling")
    for name, found in under.items():
        if "sign_length_coupling" in found and by_sequence is not None:
            found["sign_length_coupling"] -= by_sequence
        metrics |= {f"{key}/{name}": value for key, value in found.items()}
    if chosen is not None:
        metrics |= under[chosen]
    return {f"aggregation/{key}": float(value) for key, value in metrics.items()}


def under_rule(length_N: Tensor, advantage_N: Tensor, weight_N: Tensor) -> dict[str, float]:
    """Return how a rule divides the objective among the responses.

    Returns:
        pg_loss_expected: the policy loss on-policy, -(1/N) * sum_i w_i * length_i * A_i: what
            the first update of an on-policy batch measures.
        share_positive, share_negative: of the objective, by advantage sign.
        coupling: log(share_positive / share_negative), if there are both.
        effective_responses: 1 / sum of squared shares, N' if N' responses share alike.
        All but the first are missing if no response has an advantage.
    """
    signed_N = weight_N * length_N * advantage_N
    found = {"pg_loss_expected": -signed_N.mean().item()}
    part_N = signed_N.abs()
    whole = part_N.sum().item()
    if whole == 0:
        return found
    positive = signed_N.clamp(min=0).sum().item() / whole
    found |= {
        "objective_share_positive": positive,
        "objective_share_negative": 1 - positive,
        "effective_num_responses": whole**2 / part_N.square().sum().item(),
    }
    if 0 < positive < 1:
        found["sign_length_coupling"] = torch.logit(
            torch.tensor(positive, dtype=torch.double)
        ).item()
    return found


class GroupLengths(NamedTuple):
    """Lengths within each group."""

    exists_P: Tensor
    """Say whether a group of this number has a response."""
    mean_P: Tensor
    """Mean length."""
    mixed_P: Tensor
    """Say whether it has advantages of both signs."""
    gap_P: Tensor
    """Mean negative minus mean positive length, in units of the mean; NaN where not mixed."""
    variation_P: Tensor
    """Standard deviation (over G) of the lengths over their mean; NaN where there is no group."""
    zero_P: Tensor
    """Say whether all its advantages are 0."""


def group_lengths(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> GroupLengths:
    """Return length gap and length variation of each group, the two quantities of arXiv:2605.04077.

    Advantages of exactly 0 count in the mean length and in neither sign.
    """
    length_N = length_N.double()
    is_negative_N, is_positive_N = advantage_N < 0, advantage_N > 0
    count_P = torch.bincount(group_N)
    mean_P = per_group(length_N, group_N) / count_P
    squares_P = per_group((length_N - mean_P[group_N]) ** 2, group_N)
    negative_P, positive_P = per_group(is_negative_N, group_N), per_group(is_positive_N, group_N)
    mean_negative_P = per_group(length_N * is_negative_N, group_N) / negative_P
    mean_positive_P = per_group(length_N * is_positive_N, group_N) / positive_P
    return GroupLengths(
        exists_P=count_P > 0,
        mean_P=mean_P,
        mixed_P=(negative_P > 0) & (positive_P > 0),
        gap_P=(mean_negative_P - mean_positive_P) / mean_P,
        variation_P=(squares_P / count_P).sqrt() / mean_P,
        zero_P=(count_P > 0) & (negative_P + positive_P == 0),
    )


def per_group(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Sum of `value_N` over the responses of each group."""
    return torch.bincount(group_N, weights=value_N.double())


def spread_over_groups(key: str, value_P: Tensor) -> dict[str, float]:
    """Return mean, 10th and 90th percentile over the groups in which a quantity is not NaN."""
    value_P = value_P.double()
    value_P = value_P[~value_P.isnan()]
    if not len(value_P):
        return {}
    low, high = value_P.quantile(torch.tensor([0.1, 0.9], dtype=torch.double)).tolist()
    return {key: value_P.mean().item(), f"{key}_p10": low, f"{key}_p90": high}


def prefix_push(advantage_N: Tensor, group_N: Tensor, weight_N: Tensor) -> Tensor:
    """Return W_g = (1/G) * sum_i w_i * A_i (arXiv:2601.05002, proposition 1), on-policy.

    The gradient of a token that all responses of the group share is W times that of its log-prob,
    whatever follows: the tokens of a common opening are pushed up (W > 0) or down by nothing but
    how the rule's weights go with the advantages.
    """
    return per_group(weight_N * advantage_N, group_N) / torch.bincount(group_N)


def common_prefix(token_T: Tensor, begin_N: Tensor, length_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the number of tokens that all responses of each group begin with.

    Args:
        token_T: token ids of all responses in a row.
        begin_N: where in it each response begins.
        length_N: its tokens.
        group_N: number of its group.
    """
    row_N = torch.arange(len(group_N))
    zero_P = torch.zeros_like(torch.bincount(group_N))
    leader_P = zero_P.scatter_reduce(0, group_N, row_N, "amin", include_self=False)
    prefix_P = zero_P.scatter_reduce(0, group_N, length_N, "amin", include_self=False)
    # Each row is compared with its group's first, in blocks, until its group has parted.
    compared, width = 0, 4
    while len(row_N := row_N[prefix_P[group_N[row_N]] > compared]):
        group = group_N[row_N]
        position = compared + torch.arange(width)
        own, its = (
            token_T[(begin_N[rows, None] + position).clamp(max=len(token_T) - 1)]
            for rows in (row_N, leader_P[group])
        )
        same = (own == its).long().cumprod(-1).sum(-1)
        parted = same < width
        prefix_P.scatter_reduce_(0, group[parted], compared + same[parted], "amin")
        compared, width = compared + width, min(2 * width, 256)
    return prefix_P


def by_verdict(
    length_N: Tensor, correct_N: Tensor, advantage_N: Tensor, truncated_N: Tensor
) -> dict[str, float]:
    """Return the share of correct responses, lengths by verdict, and truncation by sign.

    Whatever the settings leave out of the objective is in here, padding is not. Unlike the sign of
    the advantage, `right_N` is defined in groups without variance too.
    """
    there_N = length_N > 0
    metrics: dict[str, float] = {}
    means = {
        "reward/correct": (there_N, correct_N),
        "reward/length_correct": (there_N & correct_N, length_N),
        "reward/length_incorrect": (there_N & ~correct_N, length_N),
        "aggregation/truncated_positive": (there_N & (advantage_N > 0), truncated_N),
        "aggregation/truncated_negative": (there_N & (advantage_N < 0), truncated_N),
    }
    for key, (is_N, value_N) in means.items():
        if is_N.any():
            metrics[key] = value_N[is_N].double().mean().item()
    return metrics
