"""Weight verl's policy loss per response in the FSDP actor.

verl's clipped surrogate is positively homogeneous in the advantage: loss(w * A) = w * loss(A). So
advantages times `agg_weight` give the weighted objective of `recipe/maths/rules.py`, whatever the
split over ranks, mini-batches and micro-batches. verl divides the sum over tokens by the tokens of
the mini-batch. Advantages times tokens / responses undo that, so the policy term is divided once,
by the responses. Entropy and KL terms keep verl's own aggregation, the token mean of the
mini-batch.
"""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.config import ActorConfig
from verl.workers.utils.losses import ppo_loss

from recipe.maths.columns import offsets
from recipe.objectives.base import Loss
from recipe.objectives.losses.exact import clip_bounds  # the module registers its losses
from recipe.objectives.policy_gradient import (
    FACTOR_COLUMN,
    MICRO_COLUMN,
    MICRO_SIZE_COLUMN,
    SLOPE_COLUMN,
    SLOPE_METRIC,
    WEIGHT_COLUMN,
)


class WeightedLoss(Loss):
    """Run verl's policy loss in a worker, with every response weighted."""

    def __init__(self, actor: ActorConfig) -> None:
        """Take verl's actor settings, which name the loss."""
        self.config = actor

    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return `weighted_ppo_loss` of a micro-batch."""
        return weighted_ppo_loss(self.config, model_output, data, dp_group)


def weighted_ppo_loss(
    config: ActorConfig, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    """Return verl's `ppo_loss` with advantages multiplied by the weight of their response.

    Args:
        config: verl's settings of the actor, with the loss aggregation `token-mean`.
        model_output: log-probs (and entropy) of a micro-batch, nested over its tokens.
        data: the micro-batch, with `advantages` nested over response tokens, the (N,) column
            `agg_weight` and, under a rule with a learned scalar, `agg_slope`, the derivative of
            the weight by that scalar. `token_factor`, nested like the advantages, is optional.
        dp_group: data-parallel group, unused as in verl.

    Returns:
        The micro-batch's part of the loss and verl's own metrics; with `agg_slope` also its part
        of the loss's derivative by the scalar, summed over micro-batches like the loss.

    Raises:
        TypeError: the advantages are not nested.
        RuntimeError: `agg_micro` says that this is another micro-batch than was weighted.
    """
    if MICRO_COLUMN in data:
        check_micro_batch(data[MICRO_COLUMN], data[MICRO_SIZE_COLUMN])
    advantages = data["advantages"]
    if not advantages.is_nested:
        raise TypeError("the column advantages is padded, but verl's V1 trainer sends it nested")
    weight_N, shift = data[WEIGHT_COLUMN], None
    if SLOPE_COLUMN in data:
        # The loss depends on the learned scalar through the weights alone: w(x) = w + x * dw/dx.
        shift = torch.zeros((), device=weight_N.device, requires_grad=True)
        weight_N = weight_N + shift * data[SLOPE_COLUMN]
    # Of a mini-batch without a trained token verl would divide by 0.
    num_tokens = max(data["batch_num_tokens"], 1)
    # A shallow copy, because the rows come again in the next epoch.
    weighted = data.copy()
    tu.assign_non_tensor(weighted, batch_num_tokens=num_tokens)
    factor_N = weight_N.to(advantages.dtype) * (num_tokens / data["global_batch_size"])
    # verl pads the other columns alike, and leaves this one as it is.
    padded_NT = advantages.to_padded_tensor(0.0)
    if FACTOR_COLUMN in data:
        padded_NT = padded_NT * data[FACTOR_COLUMN].to_padded_tensor(0.0).to(padded_NT)
    weighted["advantages"] = padded_NT * factor_N[:, None]
    loss, metrics = ppo_loss(config, model_output, weighted, dp_group)
    if shift is not None:
        [slope] = torch.autograd.grad(loss, shift, retain_graph=True)
        metrics[SLOPE_METRIC] = Metric(value=slope, aggregation=AggregationType.SUM)
    if config.policy_loss.loss_mode == "vanilla":
        # On policy no ratio is past its bound, and there is nothing to compute.
        clips = metrics["actor/pg_clipfrac"].aggregate() > 0
        excess = ratio_clip_excess(config, model_output["log_probs"], data) if clips else 0.0
        metrics["actor/ratio_clip_excess"] = Metric(AggregationType.MEAN, excess)
    return loss, metrics


def check_micro_batch(micro_N: Tensor, size_N: Tensor) -> None:
    """Refuse a micro-batch that is not the one for which its responses were weighted.

    Args:
        micro_N: number of the micro-batch that each response was weighted for.
        size_N: its size.

    Raises:
        RuntimeError: it is another one.
    """
    numbers, sizes = set(micro_N.tolist()), set(size_N.tolist())
    if len(numbers) > 1 or sizes != {len(micro_N)}:
        raise RuntimeError(
            f"verl made a micro-batch of {len(micro_N)} responses, which were weighted for the "
            f"micro-batches {sorted(numbers)} of {sorted(sizes)} responses. verl packs in another "
            f"way than recipe/training/packing.py says: put it right there, or use "
            f"aggregation=token_batch."
        )


@torch.no_grad()
def ratio_clip_excess(config: ActorConfig, log_probs: Tensor, data: TensorDict) -> float:
    """Return how far the ratios lie beyond the bound where verl's clipped token loss is flat.

    The mean over the trained tokens of a micro-batch of max(0, ratio - 1 - clip_ratio_high) where
    A > 0 and of max(0, 1 - clip_ratio_low - ratio) where A < 0. There the token's own gradient is
    zero, so momentum or other tokens moved the ratio (arXiv:2601.05002, proposition 3). verl
    averages this over micro-batches, as its `pg_clipfrac`.
    """
    low, high = clip_bounds(config)
    columns = (data[name] for name in ("response_mask", "old_log_probs", "advantages"))
    mask, old, advantage = (torch.as_tensor(column.values()) for column in columns)
    # verl's model outputs cover prompt and response, shifted left by one token.
    ends = offsets(data["response_mask"])
    shift_N = offsets(log_probs)[1:] - 1 - ends[1:]
    shift = shift_N.repeat_interleave(ends.diff(), output_size=len(mask))
    log_prob = log_probs.values()[torch.arange(len(mask), device=mask.device) + shift]
    sign = advantage.sign()
    past = (log_prob - old).clamp_(max=20).expm1_()
    past = past.mul_(sign).sub_(torch.where(sign > 0, high, low)).relu_()
    return (past.mul_(mask).sum() / mask.sum().clamp(min=1)).item()
