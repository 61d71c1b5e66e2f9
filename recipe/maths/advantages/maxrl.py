"""MaxRL (arXiv:2602.02710): divide by the group's mean instead of its standard deviation.

    A_i = (r_i - p) / (p + 1e-6)        r is 1 for a correct response and 0 otherwise, p its mean

It follows the gradient of log p, the likelihood of a correct response, so prompts that are seldom
solved count most. The number added to p is that of the authors' code.
"""

from torch import Tensor

from ..within import centred_within, mean_within
from .base import Advantage, Scored

EPSILON = 1e-6


def maxrl_advantages(correct_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the advantages by the equation of this module, (N,) float64."""
    return centred_within(correct_N, group_N) / (mean_within(correct_N, group_N) + EPSILON)


class MaxRl(Advantage):
    """Divide by the share of correct responses of the group."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch."""
        return maxrl_advantages(rows.correct_N, rows.group_N), {}
