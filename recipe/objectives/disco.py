"""DisCO (arXiv:2505.12366) on the driver: groups and verdicts, in complete mini-batches.

`recipe/maths/disco.py` derives the objective, and `losses/disco.py` runs it in the workers.
"""

from typing import Any

from torch import Tensor

from recipe.maths.disco import DiscoSettings
from recipe.maths.responses import Responses, describe
from recipe.maths.within import varies_within
from recipe.objectives.base import ON_POLICY, Loss, Objective, Step

GROUP_COLUMN, CORRECT_COLUMN = "disco_group", "disco_correct"


class Disco(Objective):
    """Compare the correct with the incorrect responses of each prompt."""

    Settings = DiscoSettings
    has_aggregation = False

    def loss(self) -> Loss:
        """Return the loss, which looks at a whole mini-batch before it is split."""
        from recipe.objectives.losses.disco import DiscoLoss

        return DiscoLoss(self.chosen.settings)

    def rows_of_whole_groups(self) -> int:
        """Return the size of a mini-batch: groups are compared within one."""
        return self.mini_batch_rows()

    def step(self, rows: Responses) -> Step:
        """Return the group and the verdict of each response."""
        rules = self.chosen.aggregation.rules()
        return Step(columns(rows), describe(rows, rows.length_N > 0, rules, None), rows)

    def before_update(self, num_rows: int) -> dict[str, Any]:
        """Tell the workers whether the old log-probabilities are the current ones."""
        return {ON_POLICY: self.is_on_policy(num_rows)}


def columns(rows: Responses) -> dict[str, Tensor]:
    """Return the verdict and the group of each row; the group is -1 if it is not trained.

    Raises:
        ValueError: two correct, or two incorrect, responses of a group differ in score.
    """
    graded_N = varies_within(rows.score_N, 2 * rows.group_N + rows.correct_N)
    if graded_N.any():
        group = rows.group_N[graded_N][0]
        values = rows.score_N[rows.group_N == group].unique().tolist()
        raise ValueError(
            f"DisCO compares correct with incorrect responses and reads nothing else, but "
            f"responses of one prompt have the scores "
            f"{', '.join(f'{value:.3g}' for value in values)}. Use a reward with two values, or "
            f"objective=policy_gradient."
        )
    group_N = rows.group_N.where(rows.length_N > 0, -1)
    return {GROUP_COLUMN: group_N, CORRECT_COLUMN: rows.correct_N.float()}
