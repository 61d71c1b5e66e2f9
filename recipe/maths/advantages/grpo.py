"""GRPO (arXiv:2402.03300): the score minus the group's mean, over its standard deviation."""

from torch import Tensor

from .base import Advantage, Scored


class Grpo(Advantage):
    """Keep the advantages as verl computed them."""

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return verl's own tensor, so nothing is written back into the batch."""
        return rows.advantage_N, {}
