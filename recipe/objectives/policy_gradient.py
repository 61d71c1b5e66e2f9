"""verl's policy loss, in which the aggregation rule gives every response a weight.

The weights are computed on the driver from whole groups and travel as a column of the batch. So the
gradient does not depend on how verl splits the batch over ranks, mini-batches and micro-batches.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from recipe.maths.advantages.base import Memory
from recipe.maths.columns import spread
from recipe.maths.learned import LearnedScalar
from recipe.maths.responses import Responses, describe
from recipe.maths.rules import MICRO, over_all_rows, value_and_slope
from recipe.objectives.base import Chosen, Loss, Objective, Step

WEIGHT_COLUMN, SLOPE_COLUMN = "agg_weight", "agg_slope"
# A factor for each token, of objectives that have one.
FACTOR_COLUMN = "token_factor"
# Number and size of the micro-batch for which a response was weighted.
MICRO_COLUMN, MICRO_SIZE_COLUMN = "agg_micro", "agg_micro_size"
SLOPE_METRIC = "lambda_scalar_gradient"


class PolicyGradient(Objective):
    """Weight verl's policy loss by the aggregation rule, after the chosen advantage."""

    def __init__(self, chosen: Chosen) -> None:
        """Begin with the learned scalar at its start."""
        super().__init__(chosen)
        scalar = chosen.aggregation.scalar
        self.scalar = LearnedScalar(scalar) if scalar else None

    def check(self) -> None:
        """Refuse a loss that cannot be weighted per response."""
        from recipe.objectives.losses.weightable import check_loss

        check_loss(self._actor())

    def memories(self) -> Sequence[Memory]:
        """Return the learned scalar, and what the advantage remembers."""
        advantage = self.chosen.advantage and self.chosen.advantage.memory
        return [memory for memory in (self.scalar, advantage) if memory is not None]

    def loss(self) -> Loss:
        """Return the weighted loss."""
        from recipe.objectives.losses.weighted import WeightedLoss

        return WeightedLoss(self._actor())

    def step(self, rows: Responses) -> Step:
        """Return the weight of each response, and the advantages if they are not verl's."""
        rows, columns, metrics = self._with_advantages(rows)
        settings = self.chosen.aggregation
        facts = rows.length_N, rows.advantage_N, rows.group_N
        counted_N = settings.counted(*facts, rows.truncated_N)
        micro_N = rows.micro_N
        if settings.rule == MICRO:
            columns |= micro_columns(micro_N)
        rules = settings.rules(
            self.scalar and self.scalar.value, None if micro_N is None else micro_N[counted_N]
        )
        rule, counted = rules[str(settings.rule)], [fact_N[counted_N] for fact_N in facts]
        weights = {WEIGHT_COLUMN: rule(*counted)}
        if self.scalar is not None:
            weights[SLOPE_COLUMN] = value_and_slope(rule, self.scalar.value, *counted)[1]
            metrics["aggregation/lambda_scalar"] = self.scalar.value
        for name, weight_C in weights.items():
            columns[name] = over_all_rows(weight_C, counted_N).float()
        metrics |= describe(rows, counted_N, rules, settings.rule)
        return Step(columns, metrics, rows)

    def after_update(self, metrics: dict[str, Any]) -> None:
        """Move the learned scalar."""
        if self.scalar is not None:
            self.scalar.step(metrics[f"actor/{SLOPE_METRIC}"])

    def _with_advantages(self, rows: Responses) -> tuple[Responses, dict, dict[str, float]]:
        """Return the rows, the columns and the metrics of the chosen advantage."""
        assert self.chosen.advantage is not None
        scored = rows.scored()
        advantage_S, found = self.chosen.advantage(scored)
        if advantage_S is scored.advantage_N:
            return rows, {}, {}
        rows = rows.with_advantages(advantage_S)
        spread_NT = spread(rows.advantage_N, rows.mask_NT)
        metrics = {f"advantage/{key}": value for key, value in found.items()}
        return rows, {"advantages": spread_NT, "returns": spread_NT}, metrics

    def _actor(self) -> Any:
        """Return verl's actor settings as its dataclass."""
        from verl.utils.config import omega_conf_to_dataclass

        return omega_conf_to_dataclass(self.chosen.verl.actor_rollout_ref.actor)


def micro_columns(micro_N: Tensor | None) -> dict[str, Tensor]:
    """Return the columns with the number and the size of each response's micro-batch.

    Raises:
        RuntimeError: the micro-batches are not known.
    """
    if micro_N is None:
        raise RuntimeError(
            "the responses of this step do not fill mini-batches, so the micro-batches that "
            "aggregation=token_micro needs are not known. Use aggregation=token_batch."
        )
    return {MICRO_COLUMN: micro_N, MICRO_SIZE_COLUMN: micro_N.bincount()[micro_N]}
