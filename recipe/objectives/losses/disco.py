"""DisCO in verl's FSDP actor: a look at the whole mini-batch, then a loss that may be split.

`prepare` runs before the update of a mini-batch: one forward pass under the current parameters
gives every response's score, the ranks exchange them (five numbers a response), and each row gets
its slope. The loss of a micro-batch is then linear in its own responses (`recipe.maths.disco`), so
the gradient does not depend on ranks or micro-batches, as long as the mini-batch holds whole
groups, which `recipe/objectives/disco.py` ensures.
"""

from typing import Any, NamedTuple, cast

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.engine import BaseEngine
from verl.workers.utils.padding import no_padding_2_padding

from recipe.maths.disco import DiscoSettings, kl_terms, scores, slopes
from recipe.objectives.base import ON_POLICY, Loss
from recipe.objectives.disco import CORRECT_COLUMN, GROUP_COLUMN
from recipe.objectives.losses.look import gathered, look

SLOPE_COLUMN, MINI_BATCH = "disco_slope", "disco_mini_batch"


class MiniBatch(NamedTuple):
    """Hold what `prepare` found in the whole mini-batch, before its update."""

    objective: float
    kl: float
    pressure: float
    num_tokens: int


class DiscoLoss(Loss):
    """Run DisCO in a worker: look at a whole mini-batch, then compute any part of its loss."""

    def __init__(self, settings: DiscoSettings) -> None:
        """Create the loss of a run from its `objective.disco` settings."""
        self.settings = settings

    def prepare(self, engine: BaseEngine, data: TensorDict, forward: dict[str, Any]) -> None:
        """Add each row's slope to this rank's part of a mini-batch, and the pressure of its KL.

        Args:
            engine: the actor's.
            data: the rows, with `old_log_probs` and `response_mask` nested over tokens and the
                (N,) columns `disco_group` and `disco_right`. Under `disco_on_policy` the old
                log-probs are those of the current parameters, and no forward pass is made.
            forward: the engine's settings of a forward pass, and how it is cut into micro-batches.
        """
        on_policy = tu.get_non_tensor_data(data, ON_POLICY, False)
        score_N, kl_N, length_N = self._terms(
            None if on_policy else look(engine, data, forward), data
        )
        columns = score_N, kl_N, length_N, data[GROUP_COLUMN], data[CORRECT_COLUMN]
        every_M = gathered(engine, torch.stack([column.double() for column in columns], dim=1))
        score_M, kl_M, length_M, group_M, correct_M = every_M.cpu().unbind(1)
        value, slope_M = slopes(score_M, correct_M > 0, group_M.long(), self.settings.tau)
        num_tokens = max(int(length_M.sum()), 1)
        kl = kl_M.sum().item() / num_tokens
        pressure = self.settings.kl_penalty * max(kl - self.settings.kl_limit, 0.0)
        own = slope_M.split(len(data))[engine.get_data_parallel_rank()]
        data[SLOPE_COLUMN] = own.to(score_N)
        facts = MiniBatch(value.item(), kl, pressure, num_tokens)
        tu.assign_non_tensor(data, **{MINI_BATCH: facts})

    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the micro-batch's part of the loss, for `prepare`d data.

        Returns:
            the loss, whose gradient summed over micro-batches and averaged over ranks is that of
            the objective (its value is linear in the scores, so it is not the objective's); the
            objective, KL and pressure before the update, the same in every micro-batch.
        """
        log_prob_NT = no_padding_2_padding(model_output["log_probs"], data)
        score_N, kl_N, _ = self._terms(log_prob_NT, data)
        facts = cast(MiniBatch, tu.get_non_tensor_data(data, MINI_BATCH, None))
        constraint = facts.pressure * kl_N.sum() / facts.num_tokens
        loss = (constraint - (data[SLOPE_COLUMN] * score_N).sum()) * data["dp_size"]
        found: dict[str, Any] = {
            "actor/pg_loss": -facts.objective,
            "disco_objective": facts.objective,
            "disco_kl": facts.kl,
            "disco_pressure": facts.pressure,
        }
        return loss, Metric.from_dict(found, aggregation=AggregationType.MEAN)

    def _terms(self, log_prob_NT: Tensor | None, data: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        """Return score, summed KL and trained tokens of each row; of the old log-probs if None."""
        padded = data.select("response_mask", "old_log_probs").to_padded_tensor()
        old_NT: Tensor = padded["old_log_probs"]
        mask_NT = padded["response_mask"].bool()
        given_NT: Tensor = old_NT if log_prob_NT is None else log_prob_NT.to(old_NT.device)
        # Tokens that are not trained may differ by anything, and sums over tokens need float32.
        columns: tuple[Tensor, Tensor] = (old_NT, given_NT)
        old_NT, log_prob_NT = (
            x_NT.to(torch.promote_types(x_NT.dtype, torch.float32)).where(mask_NT, 0)
            for x_NT in columns
        )
        kl_NT = kl_terms(log_prob_NT, old_NT, self.settings.kl)
        score_N = scores(log_prob_NT, old_NT, mask_NT, self.settings.score)
        return score_N, (kl_NT * mask_NT).sum(-1), mask_NT.sum(-1)
