"""Divide by the batch's standard deviation (ScaleRL, arXiv:2510.13786).

    A_i = (r_i - mean_group r) / (std_batch (r - mean_group r) + 1e-6)

GRPO divides by the group's own standard deviation, so a prompt that is nearly always or nearly
never solved counts more. Here all prompts are divided by one number. Magistral (arXiv:2506.10910)
and Lite PPO (arXiv:2508.08221) do the same. The standard deviation is over one less than the number
of responses.
"""

from torch import Tensor

from ..within import centred_within
from .base import Advantage, Scored

EPSILON = 1e-6


def batch_std_advantages(score_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the advantages by the equation of this module, (N,) float64."""
    centred_N = centred_within(score_N, group_N)
    return centred_N / (centred_N.std() + EPSILON)


class BatchStd(Advantage):
    """Divide all advantages of a batch by one standard deviation."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch."""
        return batch_std_advantages(rows.score_N, rows.group_N), {}
