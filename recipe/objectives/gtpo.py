"""GTPO's conflict tokens (arXiv:2508.03772): the weighted policy loss with a factor for each token.

`recipe/maths/conflict.py` finds the tokens. The paper's entropy terms are not here: it leaves out
responses of high entropy, and adds the entropy to the advantage.
"""

import torch

from recipe.maths.columns import offsets
from recipe.maths.conflict import GtpoSettings, conflict_runs, token_factors
from recipe.maths.responses import Responses
from recipe.objectives.base import Step
from recipe.objectives.policy_gradient import FACTOR_COLUMN, WEIGHT_COLUMN, PolicyGradient


class Gtpo(PolicyGradient):
    """Weight conflict tokens of correct responses up, and leave those of incorrect ones out."""

    Settings = GtpoSettings

    def step(self, rows: Responses) -> Step:
        """Return the columns of the policy gradient, and the factor of each token."""
        made = super().step(rows)
        settings: GtpoSettings = self.chosen.settings
        rows = made.rows
        # Rows that are not trained push nothing.
        advantage_N = rows.advantage_N.where(rows.length_N > 0, 0.0)
        first_N, last_N = conflict_runs(rows.tokens_NT.unbind(), advantage_N, rows.group_N)
        size_N = offsets(rows.tokens_NT).diff()
        columns = (x.tolist() for x in (size_N, first_N, last_N, advantage_N > 0))
        factors = [
            token_factors(size, first, last, is_positive, settings)
            for size, first, last, is_positive in zip(*columns, strict=True)
        ]
        made.columns[FACTOR_COLUMN] = torch.nested.as_nested_tensor(factors, layout=torch.jagged)
        conflict_N = (first_N + last_N).minimum(size_N)
        if settings.as_code:
            made.columns[WEIGHT_COLUMN] = made.columns[WEIGHT_COLUMN] / conflict_N.clamp(min=1)
        active_N = advantage_N != 0
        if active_N.any():
            share = conflict_N[active_N].sum() / size_N[active_N].sum()
            first = first_N[active_N].double().mean()
            made.metrics["aggregation/conflict_share"] = share.item()
            made.metrics["aggregation/conflict_first_run"] = first.item()
        return made
