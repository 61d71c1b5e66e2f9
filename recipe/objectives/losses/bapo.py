"""BAPO in verl's FSDP actor: bounds from a look at the mini-batch, then the weighted clipped loss.

`prepare` runs before the update of a mini-batch: one forward pass gives every token's ratio, and
the ranks add up what tokens contribute under each bound. So all ranks and micro-batches clip alike,
and the gradient does not depend on how verl splits the batch.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import ActorConfig
from verl.workers.engine import BaseEngine
from verl.workers.utils.padding import no_padding_2_padding

from recipe.maths.bapo import BapoSettings, Bounds, chosen_bounds, contributions
from recipe.objectives.base import ON_POLICY, Loss
from recipe.objectives.losses.look import look
from recipe.objectives.losses.weighted import weighted_ppo_loss
from recipe.objectives.policy_gradient import WEIGHT_COLUMN

BOUNDS = "bapo_bounds"


class BapoLoss(Loss):
    """Run BAPO in a worker."""

    def __init__(self, actor: ActorConfig, settings: BapoSettings) -> None:
        """Take verl's actor settings, and the section `objective.bapo`."""
        self.config, self.settings = actor, settings

    def prepare(self, engine: BaseEngine, data: TensorDict, forward: dict[str, Any]) -> None:
        """Choose the bounds of a mini-batch.

        Args:
            engine: the actor's.
            data: this rank's rows. Under `on_policy` no forward pass is made: all ratios are 1.
            forward: the engine's settings of a forward pass, and how it is cut into micro-batches.
        """
        if self.settings.scope == "micro_batch":
            return
        on_policy = tu.get_non_tensor_data(data, ON_POLICY, False)
        log_prob_NT = None if on_policy else look(engine, data, forward)
        found = self._contributions(log_prob_NT, data)
        if engine.get_data_parallel_size() > 1:
            every = found.to(get_device_id())
            torch.distributed.all_reduce(every, group=engine.get_data_parallel_group())
            found = every.cpu()
        tu.assign_non_tensor(data, **{BOUNDS: chosen_bounds(found, self.settings)})

    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return `weighted_ppo_loss` of a micro-batch, clipped at the chosen bounds."""
        if self.settings.scope == "micro_batch":
            log_prob_NT = no_padding_2_padding(model_output["log_probs"].detach(), data)
            bounds = chosen_bounds(self._contributions(log_prob_NT, data), self.settings)
        else:
            bounds = cast(Bounds, tu.get_non_tensor_data(data, BOUNDS, None))
        config = replace(
            self.config, clip_ratio_low=1 - bounds.lower, clip_ratio_high=bounds.upper - 1
        )
        loss, metrics = weighted_ppo_loss(config, model_output, data, dp_group)
        found = {f"bapo_{name}": value for name, value in bounds._asdict().items()}
        return loss, metrics | Metric.from_dict(found, aggregation=AggregationType.MEAN)

    def _contributions(self, log_prob_NT: Tensor | None, data: TensorDict) -> Tensor:
        """Return what these rows contribute under each bound; log-probs None are the old ones."""
        padded = data.select("response_mask", "old_log_probs", "advantages").to_padded_tensor()
        mask_NT, old_NT = padded["response_mask"].bool(), padded["old_log_probs"]
        new_NT = old_NT if log_prob_NT is None else log_prob_NT.to(old_NT.device)
        factor_NT = torch.ones_like(old_NT)
        if self.settings.measure == "probability":
            factor_NT = old_NT.exp()
        elif self.settings.measure == "weights":
            factor_NT = factor_NT * data[WEIGHT_COLUMN][:, None].to(factor_NT)
        columns = (new_NT - old_NT).exp(), padded["advantages"], factor_NT
        ratio_T, advantage_T, factor_T = (column[mask_NT] for column in columns)
        return contributions(ratio_T, advantage_T, factor_T, self.settings).cpu()
