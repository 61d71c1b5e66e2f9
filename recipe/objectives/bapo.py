"""BAPO (arXiv:2510.18927) on the driver: the weighted policy loss, with bounds that the batch sets.

`recipe/maths/bapo.py` chooses the bounds, and `losses/bapo.py` runs the loss in the workers.
"""

from typing import Any

from recipe.maths.bapo import BapoSettings
from recipe.objectives.base import ON_POLICY, Loss
from recipe.objectives.policy_gradient import PolicyGradient


class Bapo(PolicyGradient):
    """Weight PPO's clipped loss by the aggregation rule, with adaptive bounds."""

    Settings = BapoSettings

    def loss(self) -> Loss:
        """Return the loss, which looks at a whole mini-batch before it is split."""
        from recipe.objectives.losses.bapo import BapoLoss

        return BapoLoss(self._actor(), self.chosen.settings)

    def before_update(self, num_rows: int) -> dict[str, Any]:
        """Tell the workers whether the old log-probabilities are the current ones."""
        return {ON_POLICY: self.is_on_policy(num_rows)}
