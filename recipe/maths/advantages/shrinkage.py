"""A baseline between the prompt's mean and the batch's (James-Stein, arXiv:2511.03710).

A group of few responses estimates its prompt's expected reward badly. With m the size of group g,

    b_i = (1 - s_g) * mean of the group's other responses + s_g * mean of all other groups
    s_g = v / (v + d)       A_i = r_i - b_i

v is the mean over the other groups of var(r) / m, the error of a group's mean, and d the mean
squared distance of their means from the mean of these. Neither part of b_i depends on response i,
so it adds no bias. The equations are those of the authors' code. Where nothing remains to compare
with (a batch of one group, a group of one response) the other part is the baseline (assumed).
"""

import torch
from torch import Tensor

from .base import Advantage, Scored

EPSILON = 1e-8


def shrinkage_advantages(score_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the advantages by the equations of this module, and the part s of each group.

    Returns:
        advantage_N float64, and s_P.
    """
    score_N = score_N.double()
    size_P = torch.bincount(group_N).double()
    sum_P = torch.bincount(group_N, weights=score_N)
    mean_P = sum_P / size_P
    square_P = torch.bincount(group_N, weights=(score_N - mean_P[group_N]).square())
    error_P = square_P / (size_P - 1).clamp(min=1) / size_P

    def of_others(value_P: Tensor) -> Tensor:
        return (value_P.sum() - value_P) / max(len(value_P) - 1, 1)

    # About the mean of all, so that squares do not cancel.
    centred_P = mean_P - mean_P.mean()
    distance_P = (of_others(centred_P.square()) - of_others(centred_P).square()).clamp(min=0)
    part_P = of_others(error_P) / (of_others(error_P) + distance_P + EPSILON)
    part_P = part_P.where(size_P > 1, 1.0)
    if len(size_P) == 1:
        part_P = torch.zeros(1, dtype=torch.double)
    other_N = (sum_P[group_N] - score_N) / (size_P[group_N] - 1).clamp(min=1)
    elsewhere_P = (score_N.sum() - sum_P) / (len(score_N) - size_P).clamp(min=1)
    part_N = part_P[group_N]
    return score_N - (1 - part_N) * other_N - part_N * elsewhere_P[group_N], part_P


class Shrinkage(Advantage):
    """Subtract a baseline that borrows from the other prompts of the batch."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch, and the mean part of the batch in the baseline."""
        advantage_N, part_P = shrinkage_advantages(rows.score_N, rows.group_N)
        return advantage_N, {"shrinkage": part_P.mean().item()}
