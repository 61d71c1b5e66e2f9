"""OPO (arXiv:2505.23585): the baseline that weighs the rewards of a group by length.

    A_i = r_i - sum_j L_j r_j / sum_j L_j        over the group, L in tokens

It is the baseline of least variance if the squared norm of a response's gradient grows as its
length. Then sum_i L_i A_i is 0 in every group, so the coupling of sign and length that Balanced
Aggregation takes out by weights is taken out by the baseline, under every rule whose weights are
equal within a group: `token`, `token_batch` and `constant`.
"""

from torch import Tensor

from ..within import centred_by_weight
from .base import Advantage, Scored


class Opo(Advantage):
    """Subtract the length-weighted mean of the group's scores, and divide by nothing."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch."""
        return centred_by_weight(rows.score_N, rows.length_N, rows.group_N), {}
