"""Losses that verl ships with an aggregation of their own, as ones that take every rule.

verl's `sapo` averages each response whatever the rule, and its `geo_mean` averages the responses of
a micro-batch. These are registered beside them. Each is a number for every token, linear in the
advantage, which verl adds up. Importing this module registers them.

Axes: `_N` responses, `_T` tokens.
"""

from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss
from verl.utils.torch_functional import masked_mean
from verl.workers.config import ActorConfig

# As verl bounds log ratios, so that their exponentials are finite.
MOST = 20.0


@register_policy_loss("sapo_exact")
def sapo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: ActorConfig,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the loss of SAPO (arXiv:2511.20347), whose gate closes smoothly off-policy.

    A token contributes -f(r) A with f(r) = 4 / tau * sigmoid(tau (r - 1)) and r its ratio. tau is
    the config's `tau_pos` where A > 0, and `tau_neg` elsewhere. At r = 1 the gradient is that of
    the plain policy gradient. Under the rule `sequence` it is the paper's objective.
    """
    log_ratio_NT = (log_prob - old_log_prob).clamp(-MOST, MOST)
    tau_NT = torch.full_like(advantages, config.tau_neg)
    tau_NT = tau_NT.masked_fill(advantages > 0, config.tau_pos)
    gate_NT = 4 / tau_NT * torch.sigmoid(tau_NT * (log_ratio_NT.exp() - 1))
    loss_NT = -gate_NT * advantages
    if rollout_is_weights is not None:
        loss_NT = loss_NT * rollout_is_weights
    loss = agg_loss(loss_NT, response_mask, loss_agg_mode, **config.global_batch_info)
    metrics = {
        "actor/ppo_kl": masked_mean(-log_ratio_NT, response_mask).item(),
        # Mean of r (f'(r) / f'(1)), what is left of a token's gradient: 1 at r = 1.
        "actor/sapo_gate": masked_mean(kept(log_ratio_NT, tau_NT), response_mask).item(),
    }
    return loss, metrics


@torch.no_grad()
def kept(log_ratio_NT: Tensor, tau_NT: Tensor) -> Tensor:
    """Return 4 r s (1 - s) with s = sigmoid(tau (r - 1)), the gradient of f by log r."""
    ratio_NT = log_ratio_NT.exp()
    s_NT = torch.sigmoid(tau_NT * (ratio_NT - 1))
    return 4 * ratio_NT * s_NT * (1 - s_NT)


@register_policy_loss("gmpo_exact")
def gmpo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: ActorConfig,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return the loss of GMPO (arXiv:2507.20673): the geometric mean of clipped token ratios.

    A response contributes -A exp(mean over t of c_t), with c_t the log ratio, bounded above by
    `clip_ratio_high` where A > 0 and below by -`clip_ratio_low` where A < 0. The paper has 0.4
    for both. Every token carries the response's number, so under the rule `sequence` it is the
    paper's objective. Rollout weights enter by their geometric mean, as in verl.
    """
    low, high = clip_bounds(config)
    log_ratio_NT = (log_prob - old_log_prob).clamp(-MOST, MOST)
    clipped_NT = torch.where(
        advantages > 0, log_ratio_NT.clamp(max=high), log_ratio_NT.clamp(min=-low)
    )
    length_N = response_mask.sum(-1).clamp(min=1)
    mean_N = (clipped_NT * response_mask).sum(-1) / length_N
    if rollout_is_weights is not None:
        log_NT = rollout_is_weights.log().where(response_mask.bool(), 0.0)
        mean_N = mean_N + log_NT.sum(-1) / length_N
    loss = agg_loss(
        -advantages * mean_N.exp()[:, None],
        response_mask,
        loss_agg_mode,
        **config.global_batch_info,
    )
    past_NT = (clipped_NT != log_ratio_NT) & (advantages != 0)
    metrics = {
        "actor/ppo_kl": masked_mean(-log_ratio_NT, response_mask).item(),
        "actor/pg_clipfrac": masked_mean(past_NT.float(), response_mask).item(),
    }
    return loss, metrics


def clip_bounds(config: ActorConfig) -> tuple[float, float]:
    """Return `clip_ratio_low` and `clip_ratio_high`, each `clip_ratio` where it is not set."""
    low, high = config.clip_ratio_low, config.clip_ratio_high
    return (
        config.clip_ratio if low is None else low,
        config.clip_ratio if high is None else high,
    )
