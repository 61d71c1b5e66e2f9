"""OPO (arXiv:2505.23585): the baseline that weighs the rewards of a group by length.

    A_i = r_i - sum_j L_j r_j / sum_j L_j        over the group, L in tokens

It is the baseline of least variance if the squared norm of a response's gradient grows as its
length. Then sum_i L_i A_i is 0 in every group, so the coupling of sign and length that Balanced
Aggregation takes out by weights is taken out by the baseline, under every rule whose weights are
equal within a group: `token`, `token_batch` and `constant`.
"""

from torch import Tensor

from recipe.maths.advantages.base import Advantage, Scored
from recipe.maths.within import mean_within, varies_within


def opo_advantages(score_N: Tensor, length_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the advantages by the equation of this module, (N,) float64."""
    score_N, length_N = score_N.double(), length_N.double()
    # A group whose responses were all rejected has no tokens, and none of it is trained.
    mean_N = mean_within(length_N, group_N)
    baseline_N = mean_within(length_N * score_N, group_N) / mean_N.where(mean_N > 0, 1.0)
    return (score_N - baseline_N).where(varies_within(score_N, group_N), 0.0)


class Opo(Advantage):
    """Subtract the length-weighted mean of the group's scores, and divide by nothing."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch."""
        return opo_advantages(rows.score_N, rows.length_N, rows.group_N), {}
