"""Measure in verl's actor worker what clipping and the optimizer do to each update."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from recipe.objectives.base import Loss
from recipe.training.halves import LR_FACTOR, at_part_of_lr, in_halves, local, over_shards

# Below so many times eps, sqrt(v_hat) leaves AdamW's step to depend on the gradient's scale.
EPS_FELT = 10


class MeasuredTrainingWorker(TrainingWorker):
    """Add measures of each update to a step's metrics.

    `grad_clipped` is 1 if the gradient was clipped. Rules differ in the norm of their gradient, so
    a fixed clip treats them differently, and only `update_norm` compares their step sizes.
    `adamw_scale_sensitive_share` is the share of parameters with sqrt(v_hat) < 10 * eps, whose
    AdamW step depends on the scale of the reward (arXiv:2601.05002, proposition 2).
    """

    def train_batch(self, data: TensorDict) -> TensorDict:
        """Make one optimizer step on a mini-batch, and measure it."""
        if isinstance(self.loss_fn, Loss):
            forward = {
                "use_remove_padding": self.model_config.get("use_remove_padding", False),
                "use_fused_kernels": self.model_config.get("use_fused_kernels", False),
                "use_dynamic_bsz": self.engine_config.use_dynamic_bsz,
                "max_token_len_per_gpu": self.engine_config.max_token_len_per_gpu,
                "micro_batch_size_per_gpu": self.engine_config.micro_batch_size_per_gpu,
            }
            self.loss_fn.prepare(self.engine, data, forward)
        # verl declares only the base of all engines.
        engine: Any = self.engine
        optimizer = engine.optimizer
        # Read now: verl steps the learning-rate schedule before it returns.
        lrs = [group["lr"] for group in optimizer.param_groups]
        steps_before = num_steps(optimizer)
        found: dict[str, float] = {}
        factor = tu.get(data, LR_FACTOR, default=None)
        if factor is None:
            output = super().train_batch(data)
        else:
            lrs = [factor * lr for lr in lrs]
            with in_halves(engine) as measured_halves, at_part_of_lr(engine, factor):
                output = super().train_batch(data)
            found = {LR_FACTOR: factor, **measured_halves}
        # By every rank: those without outputs, as under sequence parallelism, hold shards, too.
        if isinstance(optimizer, torch.optim.AdamW):
            started = time.perf_counter()
            # verl skips the step of a gradient that is not finite.
            stepped = num_steps(optimizer) > steps_before
            found |= self._measure(adamw_changes(optimizer, lrs) if stepped else ())
            found["update_norm_seconds"] = time.perf_counter() - started
        if output is None:
            return output
        metrics = tu.get(output, "metrics")
        metrics["grad_clipped"] = float(metrics["grad_norm"] > self.optimizer_config.clip_grad)
        metrics |= found
        return output

    @torch.no_grad()
    def _measure(self, changes: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
        """Return the two measures over all ranks, of which one may have changed nothing."""
        whole = torch.zeros(3, dtype=torch.double)
        for change, small in changes:
            part = change.square().sum(), small.sum(), change.new_full((), small.numel())
            whole += torch.stack(part).to(whole)
        square, num_small, num_changed = over_shards(self.engine, whole)
        return {
            "update_norm": square**0.5,
            "adamw_scale_sensitive_share": num_small / max(num_changed, 1),
        }


def measured(worker: type[ActorRolloutRefWorker]) -> type[ActorRolloutRefWorker]:
    """Return one of verl's actor workers with the measured training worker inside."""
    inside = {"actor_worker_cls": MeasuredTrainingWorker}
    return type(f"Measured{worker.__name__}", (worker,), inside)


def num_steps(optimizer: torch.optim.Optimizer) -> int:
    """Return how many steps an optimizer has made, by the state of its parameters."""
    return max((int(state.get("step", 0)) for state in optimizer.state.values()), default=0)


def adamw_changes(
    optimizer: torch.optim.AdamW, lrs: list[float]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what the last step changed in this rank's part of each parameter, in float32.

    Read off the optimizer's state, which needs no copy of the parameters (AdamW,
    arXiv:1711.05101, algorithm 2):

        change = -lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * theta_before)

    Args:
        optimizer: has made a step.
        lrs: the learning rate of that step, for each parameter group.

    Yields:
        The change; where sqrt(v_hat) < 10 * eps.
    """
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        decay, (beta1, beta2) = group["weight_decay"], group["betas"]
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:
                continue
            theta, m, v = (local(x) for x in (parameter, state["exp_avg"], state["exp_avg_sq"]))
            step = float(state["step"])
            m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
            scale, eps = v_hat.sqrt(), group["eps"]
            adam = m_hat / (scale + eps)
            before = (theta + lr * adam) / (1 - lr * decay)
            yield -lr * (adam + decay * before), scale < EPS_FELT * eps
