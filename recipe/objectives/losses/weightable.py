"""Find out which policy losses can be weighted per response, by trying each.

A loss takes any aggregation rule if, summed over tokens, it is

    weights     one term per response, linear in its weight (so is its gradient),
    counts      the same whatever the mini-batch holds besides,
    ranks       linear in the number of ranks, over which FSDP averages,

because then multiplying advantages by weights is the weighted objective under any split. Scalar
homogeneity alone would not do: it misses losses that average rows or pick tokens of the batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
from verl.workers.config import ActorConfig, FSDPActorConfig, PolicyLossConfig

from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.objectives.losses import exact  # noqa: F401  (registers its losses)

NUM_ROWS, NUM_TOKENS = 12, 9
COUNTS = {"dp_size": 1, "batch_num_tokens": 60, "global_batch_size": 12}
MEANINGS = {
    "weights": "is not one term per response, linear in its weight",
    "counts": "changes with the number of responses or tokens of the mini-batch, or with padding",
    "ranks": "does not scale with the number of ranks",
    "mask": "leaves tokens out in the worker, after the weights were computed from all of them",
}


class Example(NamedTuple):
    """Responses in float64, far enough off-policy to meet every clip."""

    columns: dict[str, Tensor]
    weight_N: Tensor


def example() -> Example:
    """Return lengths 1 to 9, advantages of both signs and 0, and ratios from 1/20 to 20."""
    generator = torch.Generator().manual_seed(0)
    shape = NUM_ROWS, NUM_TOKENS
    length_N = torch.arange(NUM_ROWS) % NUM_TOKENS + 1
    advantage_N = torch.tensor([4.0, -4.0, 1.0, -1.0, 0.5, 0.0] * (NUM_ROWS // 6)).double()
    mask_NT = (torch.arange(NUM_TOKENS) < length_N[:, None]).double()
    old = -4 + 3 * torch.rand(shape, generator=generator, dtype=torch.double)
    change = torch.empty(shape, dtype=torch.double).uniform_(-3, 3, generator=generator)
    columns = {
        "old_log_prob": old,
        "log_prob": (old + change).clamp(max=-1e-3),
        "advantages": advantage_N[:, None] * mask_NT,
        "response_mask": mask_NT.bool(),
        "rollout_is_weights": torch.rand(shape, generator=generator).double() + 0.5,
    }
    return Example(columns, torch.rand(NUM_ROWS, generator=generator).double() + 0.1)


def evaluate(
    config: ActorConfig, columns: dict[str, Tensor], weight_N: Tensor, **counts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a loss summed over tokens, with advantages times weights.

    Returns:
        the loss; its gradient by the log-probs, (N, T); by the weights, (N,).
    """
    # A copy each, because verl keeps the counts of the batch in the config.
    config = replace(config, global_batch_info={**COUNTS, **counts, "loss_scale_factor": None})
    log_prob = columns["log_prob"].clone().requires_grad_()
    weight_N = weight_N.clone().requires_grad_()
    given = columns | {
        "log_prob": log_prob,
        "advantages": columns["advantages"] * weight_N[:, None],
    }
    loss_fn: Callable[..., Any] = get_policy_loss_fn(config.policy_loss.loss_mode)
    loss, _ = loss_fn(**given, loss_agg_mode="token-mean", config=config)
    # The sum over tokens, which is what `weighted_ppo_loss` makes of it.
    loss = loss * config.global_batch_info["batch_num_tokens"]
    gradients = torch.autograd.grad(loss, (log_prob, weight_N), allow_unused=True)
    by_log_prob, by_weight = (
        torch.zeros_like(x) if gradient is None else gradient
        for x, gradient in zip((log_prob, weight_N), gradients, strict=True)
    )
    return loss.detach(), by_log_prob, by_weight


def failures(config: ActorConfig) -> Iterator[str]:
    """Yield the keys of `MEANINGS` that speak against the loss that the config names."""
    if config.policy_loss.loss_mode == "bypass_mode":
        correction = config.policy_loss.rollout_correction
        if correction.get("rollout_rs") is not None:
            yield "mask"
    columns, weight_N = example()
    one_N = torch.ones_like(weight_N)
    loss, gradient, slope_N = whole = evaluate(config, columns, weight_N)
    terms = [
        evaluate(config, {key: column[[i]] for key, column in columns.items()}, one_N[[i]])
        for i in range(NUM_ROWS)
    ]
    term_N = torch.stack([term[0] for term in terms])
    row_gradient = torch.cat([term[1] for term in terms])
    linear = (
        same(loss, (weight_N * term_N).sum())
        and same(gradient, weight_N[:, None] * row_gradient)
        and same(slope_N, term_N)
    )
    if not linear:
        yield "weights"
    others = evaluate(config, columns, weight_N, batch_num_tokens=97, global_batch_size=5)
    padded = {key: torch.nn.functional.pad(column, (0, 1)) for key, column in columns.items()}
    wider = evaluate(config, padded, weight_N)
    narrowed = wider[0], wider[1][:, :-1], wider[2]
    if not all(map(same, whole, others)) or not all(map(same, whole, narrowed)):
        yield "counts"
    two = evaluate(config, columns, weight_N, dp_size=2)
    if not all(same(2 * part, other) for part, other in zip(whole, two, strict=True)):
        yield "ranks"


def same(found: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding in float64."""
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def refusal(config: ActorConfig) -> str | None:
    """Return why the loss that the config names cannot be weighted; None if it can."""
    with torch.random.fork_rng():
        try:
            found = [MEANINGS[key] for key in failures(config)]
        except Exception as error:  # of a function that may be anybody's
            return f"cannot be computed with these settings: {type(error).__name__}: {error}"
    return "; ".join(found) or None


def check_loss(config: ActorConfig) -> None:
    """Refuse a loss that cannot be weighted per response.

    Raises:
        UserError: the loss that the config names cannot.
    """
    if reason := refusal(config):
        accepted = [name for name in losses() if not refusal(default_config(name))]
        raise UserError(
            f"actor_rollout_ref.actor.policy_loss.loss_mode is {config.policy_loss.loss_mode}, "
            f"which cannot be weighted per response: it {reason}. Losses that can be are "
            f"{', '.join(accepted)}."
        )


def losses() -> list[str]:
    """Return the names of the losses in verl's registry, with those of this project."""
    return list(POLICY_LOSS_REGISTRY)


def default_config(loss_mode: str, **settings: Any) -> FSDPActorConfig:
    """Return verl's defaults with one loss, and with a value where verl has none."""
    policy_loss = PolicyLossConfig(loss_mode=loss_mode, dro_beta=0.1)
    return FSDPActorConfig(
        strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True, policy_loss=policy_loss, **settings
    )


def table() -> list[str]:
    """Return the lines of a Markdown table: each loss, and whether it takes every rule."""
    rows = []
    for name in losses():
        reason = refusal(default_config(name))
        rows.append((f"`{name}`", "no" if reason else "yes", reason or ""))
    return markdown_table(("policy loss", "takes every rule", "because it"), rows)
