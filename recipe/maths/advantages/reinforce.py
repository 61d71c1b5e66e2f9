"""REINFORCE without a baseline: the score itself is the advantage (Williams, 1992).

With scores of 1 and -1 and `aggregation.positive_factor` it is the family of arXiv:2506.01347:
factor 0.1 is W-REINFORCE, 0 learns from incorrect responses only (NSR).
"""

from torch import Tensor

from .base import Advantage, Scored


class Reinforce(Advantage):
    """Take the scores as they are."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the scores of a batch."""
        return rows.score_N.double(), {}
