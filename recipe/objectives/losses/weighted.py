"""The loss that the FSDP actor runs: verl's, with the policy term weighted per response.

verl's clipped surrogate is positively homogeneous in the advantage, loss(w * A) = w * loss(A), so
multiplying the advantages by `agg_weight` and summing tokens is the weighted objective of
`recipe.maths.rules`, whatever the split over ranks, mini-batches and micro-batches. Entropy and
KL terms keep verl's own aggregation, the token mean of the mini-batch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import (
    POLICY_LOSS_REGISTRY,
    get_policy_loss_fn,
    register_policy_loss,
)
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from recipe.objectives.base import Loss
from recipe.objectives.policy_gradient import SLOPE_COLUMN, SLOPE_METRIC, WEIGHT_COLUMN

PREFIX = "weighted:"


class WeightedLoss(Loss):
    """Run verl's policy loss in a worker, with every response weighted."""

    def __init__(self, actor: ActorConfig) -> None:
        """Take verl's actor settings, which name the loss."""
        self.config = for_worker(actor)

    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return `weighted_ppo_loss` of a micro-batch."""
        return weighted_ppo_loss(self.config, model_output, data, dp_group)


def for_worker(config: ActorConfig) -> ActorConfig:
    """The actor config under which `weighted_ppo_loss` runs the registered loss it names."""
    mode = PREFIX + config.policy_loss.loss_mode
    return replace(config, policy_loss=replace(config.policy_loss, loss_mode=mode))


def weighted_ppo_loss(
    config: ActorConfig, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    """Verl's `ppo_loss` with advantages multiplied by the weight of their response.

    Args:
        config: made by `for_worker`.
        model_output: log-probs (and entropy) of a micro-batch, nested over its tokens.
        data: the micro-batch, with nested `advantages`, the (N,) column `agg_weight` and, under a
            rule with a learned scalar, `agg_slope`, the derivative of the weight by that scalar.
        dp_group: data-parallel group, unused as in verl.

    Returns:
        The micro-batch's part of the loss and verl's own metrics; with `agg_slope` also its part
        of the loss's derivative by the scalar, summed over micro-batches like the loss.

    Raises:
        TypeError: the advantages are not nested.
    """
    if not data["advantages"].is_nested:
        raise TypeError("the column advantages is padded, but verl's V1 trainer sends it nested")
    weight_N = data[WEIGHT_COLUMN]
    if SLOPE_COLUMN not in data:
        config.global_batch_info[WEIGHT_COLUMN] = weight_N
        return ppo_loss(config, model_output, data, dp_group)
    # The loss depends on the learned scalar through the weights alone: w(x) = w + x * dw/dx.
    shift = torch.zeros((), device=weight_N.device, requires_grad=True)
    config.global_batch_info[WEIGHT_COLUMN] = weight_N + shift * data[SLOPE_COLUMN]
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    [slope] = torch.autograd.grad(loss, shift, retain_graph=True)
    metrics[SLOPE_METRIC] = Metric(value=slope, aggregation=AggregationType.SUM)
    return loss, metrics


def register_weighted(loss_mode: str) -> None:
    """Register `weighted:<loss_mode>`: the loss summed over tokens, divided once by the rows.

    The weights come the way on which verl hands its losses the facts of a batch.
    """
    base: Callable[..., tuple[Tensor, dict[str, Any]]] = get_policy_loss_fn(loss_mode)

    @register_policy_loss(PREFIX + loss_mode)
    def token_sum(*, advantages: Tensor, loss_agg_mode: str, config: ActorConfig, **columns: Any):
        # Taken out, because verl hands the rest to its aggregation.
        weight_N = config.global_batch_info.pop(WEIGHT_COLUMN).to(advantages.dtype)
        if weight_N.requires_grad:
            advantages = advantages * weight_N[:, None]
        else:
            # verl has just padded them out of the nested column, so this copy is the loss's own.
            advantages.mul_(weight_N[:, None])
        loss, metrics = base(
            advantages=advantages, loss_agg_mode="token-sum", config=config, **columns
        )
        if loss_mode == "vanilla":
            # On policy no ratio is past its bound, and there is nothing to compute.
            clips = metrics["actor/pg_clipfrac"] > 0
            excess = ratio_clip_excess(advantages, config, **columns) if clips else 0.0
            metrics = metrics | {"actor/ratio_clip_excess": excess}
        return loss / config.global_batch_info["global_batch_size"], metrics


@torch.no_grad()
def ratio_clip_excess(
    advantages: Tensor,
    config: ActorConfig,
    *,
    log_prob: Tensor,
    old_log_prob: Tensor,
    response_mask: Tensor,
    **_: Any,
) -> float:
    """How far the ratio is past the bound beyond which verl's clipped token loss is flat.

    The mean over trained tokens of max(0, ratio - 1 - clip_ratio_high) where A > 0 and of
    max(0, 1 - clip_ratio_low - ratio) where A < 0: what momentum or other tokens moved on where
    the token's own gradient is 0 (arXiv:2601.05002, proposition 3). verl takes the mean over
    micro-batches, as of its `pg_clipfrac`.
    """
    low, high = (
        config.clip_ratio if bound is None else bound
        for bound in (config.clip_ratio_low, config.clip_ratio_high)
    )
    # One advantage a response, so its sign and its bound are a number a row.
    sign_N1 = advantages.sum(-1, keepdim=True).sign()
    bound_N1 = torch.where(sign_N1 > 0, high, low)
    past = (log_prob - old_log_prob).clamp_(max=20).expm1_()
    past = past.mul_(sign_N1).sub_(bound_N1).relu_()
    return (past.mul_(response_mask).sum() / response_mask.sum().clamp(min=1)).item()


for name in list(POLICY_LOSS_REGISTRY):
    register_weighted(name)
