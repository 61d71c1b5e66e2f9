"""OBLR-PO (arXiv:2511.23310): the baseline that weighs the rewards of a group by their gradient.

    A_i = r_i - sum_j q_j r_j / sum_j q_j          over the group
    q_j = sum_t (1 - 2 pi_t + sum_v pi_tv^2)       over the trained tokens t, v the vocabulary

A term of q_j is the squared norm of the gradient of log pi_t by the logits. The baseline is the one
of least variance (Greensmith et al., 2004) where q_j grows as the squared norm of the response's
gradient by the parameters. The paper's own formulas were not at hand, so this is the textbook form
(assumed), with the measure of verl's optimal token baseline (arXiv:2602.07078). OPO is q_j = L_j.
"""

from torch import Tensor

from ..within import centred_by_weight
from .base import Advantage, Scored


class Oblr(Advantage):
    """Subtract the mean of the group's scores weighted by gradient, and divide by nothing."""

    needs = ("square_N",)

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch, and the mean square of a trained token."""
        assert rows.square_N is not None
        mean = (rows.square_N.sum() / rows.length_N.sum().clamp(min=1)).item()
        found_N = centred_by_weight(rows.score_N, rows.square_N, rows.group_N)
        return found_N, {"square_per_token": mean}
