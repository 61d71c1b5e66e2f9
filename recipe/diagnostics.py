"""What an aggregation rule does to a train batch, as numbers.

Computed on the driver over whole groups (axis `_N`: responses, `_P`: prompts). A response's share
of the objective is w_i * length_i * |A_i|, normalised over the batch. Keys avoid "max", "min",
"sum" and "total": verl picks the reducer of a metric from them. A quantity that a batch does not
define, such as the length of positive responses where there are none, is left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def diagnose(
    length_N: Tensor,
    advantage_N: Tensor,
    group_N: Tensor,
    weights: Mapping[str, Tensor],
    chosen: str,
) -> dict[str, float]:
    """Metrics of a batch under its rule and, counterfactually, under every other.

    Args:
        length_N: trained tokens of each response, > 0.
        advantage_N: one group-relative advantage per response.
        group_N: integer id of the response's prompt.
        weights: weight_N under each rule, by name.
        chosen: the rule that trains.
    """
    metrics: dict[str, float] = {}
    for sign, is_sign_N in (("positive", advantage_N > 0), ("negative", advantage_N < 0)):
        metrics[f"num_{sign}"] = int(is_sign_N.sum())
        metrics[f"tokens_{sign}"] = int(length_N[is_sign_N].sum())
        if is_sign_N.any():
            metrics[f"length_{sign}"] = length_N[is_sign_N].double().mean().item()
    for name, weight_N in weights.items():
        shares = share_by_sign(length_N, advantage_N, weight_N)
        metrics |= {f"share_{sign}/{name}": share for sign, share in shares.items()}
        if name == chosen:
            metrics |= {f"share_{sign}": share for sign, share in shares.items()}
    metrics |= length_by_group(length_N, advantage_N, group_N)
    return {f"aggregation/{key}": float(value) for key, value in metrics.items()}


def share_by_sign(length_N: Tensor, advantage_N: Tensor, weight_N: Tensor) -> dict[str, float]:
    """How a rule divides the objective between positive and negative responses.

    Empty if no response has an advantage: then there is nothing to divide.
    """
    share_N = weight_N * length_N * advantage_N.abs()
    total = share_N.sum()
    if total == 0:
        return {}
    positive = (share_N[advantage_N > 0].sum() / total).item()
    return {"positive": positive, "negative": 1.0 - positive}


def length_by_group(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> dict[str, float]:
    """The two quantities that, by arXiv:2605.04077, decide between token and sequence aggregation.

    Returns:
        length_gap: mean over groups with both signs of (mean negative - mean positive length),
            in units of the group's mean length.
        length_variation: mean over groups of the lengths' standard deviation over their mean.
        num_groups, num_zero_groups: groups, and those in which every advantage is 0.
    """
    _, group_N = group_N.unique(return_inverse=True)
    length_N = length_N.double()
    num_groups = int(group_N.max()) + 1

    def per_group(value_N: Tensor) -> Tensor:
        return torch.bincount(group_N, weights=value_N.double(), minlength=num_groups)

    count_P, total_P = per_group(torch.ones_like(length_N)), per_group(length_N)
    mean_P = total_P / count_P
    deviation_P = (per_group((length_N - mean_P[group_N]) ** 2) / count_P).sqrt()
    is_negative_N, is_positive_N = advantage_N < 0, advantage_N > 0
    negative_P, negative_tokens_P = per_group(is_negative_N), per_group(length_N * is_negative_N)
    positive_P, positive_tokens_P = per_group(is_positive_N), per_group(length_N * is_positive_N)
    metrics = {
        "length_variation": (deviation_P / mean_P).mean().item(),
        "num_groups": num_groups,
        "num_zero_groups": int((negative_P + positive_P == 0).sum()),
    }
    mixed_P = (negative_P > 0) & (positive_P > 0)
    if mixed_P.any():
        gap_P = (negative_tokens_P / negative_P - positive_tokens_P / positive_P) / mean_P
        metrics["length_gap"] = gap_P[mixed_P].mean().item()
    return metrics


def by_verdict(
    length_N: Tensor, score_N: Tensor, advantage_N: Tensor, truncated_N: Tensor
) -> dict[str, float]:
    """Share of right responses, lengths by verdict, truncation by sign: of all with a length.

    Whatever the settings leave out of the objective is in here, padding is not. A score above 0
    counts as right, as it does for the project's graders; unlike the sign of the advantage, that
    is defined in groups without variance too.
    """
    there_N, right_N = length_N > 0, score_N > 0
    metrics: dict[str, float] = {}
    means = {
        "reward/right": (there_N, right_N),
        "reward/length_right": (there_N & right_N, length_N),
        "reward/length_wrong": (there_N & ~right_N, length_N),
        "aggregation/truncated_positive": (there_N & (advantage_N > 0), truncated_N),
        "aggregation/truncated_negative": (there_N & (advantage_N < 0), truncated_N),
    }
    for key, (is_N, value_N) in means.items():
        if is_N.any():
            metrics[key] = value_N[is_N].double().mean().item()
    return metrics
