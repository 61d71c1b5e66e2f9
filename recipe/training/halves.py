"""Measure the gradients of two halves of a mini-batch, in verl's FSDP engine.

`recipe/maths/signal.py` says what they are for. The driver orders the rows such that the first and
the second half of every rank's rows hold whole groups of all ranks together.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.utils.py_functional import append_to_dict

# What the driver tells the workers, and the metrics that they return: <G1, G2> and |g|^2.
LR_FACTOR, SIGNAL, SQUARE = "lr_factor", "gradient_signal", "gradient_square"


@contextmanager
def in_halves(engine: Any) -> Iterator[dict[str, float]]:
    """Have an engine differentiate a mini-batch half by half, and yield what is measured then.

    verl's loss of a row does not depend on the split, so the two add up to the whole gradient. One
    copy of this rank's shard of the gradient is kept meanwhile.

    Args:
        engine: verl's FSDP engine, which makes one update inside.

    Yields:
        Filled by the update: `SIGNAL` and `SQUARE`.
    """
    found: dict[str, float] = {}
    whole: Callable[..., dict[str, Any]] = engine.forward_backward_batch

    def by_halves(
        data: TensorDict, loss_function: Callable, forward_only: bool = False
    ) -> dict[str, Any]:
        first, second = tu.chunk_tensordict(data, 2)
        output = whole(first, loss_function, forward_only)
        before = [None if p.grad is None else p.grad.clone() for p in engine.module.parameters()]
        other = whole(second, loss_function, forward_only)
        found.update(compared(engine, before))
        output["loss"] += other["loss"]
        append_to_dict(output["metrics"], other["metrics"])
        return output

    engine.forward_backward_batch = by_halves
    try:
        yield found
    finally:
        del engine.forward_backward_batch


@torch.no_grad()
def compared(engine: Any, before: list[Tensor | None]) -> dict[str, float]:
    """Return <G1, G2> and |g|^2 of the mini-batch over all shards.

    Args:
        engine: verl's FSDP engine, with the gradient g of the whole mini-batch.
        before: what the first half added to it, G1 / 2.
    """
    sums = torch.zeros(2, dtype=torch.double)
    for p, own in zip(engine.module.parameters(), before, strict=True):
        if p.grad is not None:
            whole = local(p.grad)
            half = torch.zeros_like(whole) if own is None else local(own)
            sums += torch.stack([4 * (half * (whole - half)).sum(), whole.square().sum()]).to(sums)
    signal, square = over_shards(engine, sums)
    return {SIGNAL: signal, SQUARE: square}


@contextmanager
def at_part_of_lr(engine: Any, factor: float) -> Iterator[None]:
    """Have an engine step with its learning rates times a factor. Its schedule goes on as ever."""
    groups, step = engine.optimizer.param_groups, engine.optimizer_step

    def smaller_step() -> Any:
        lrs = [group["lr"] for group in groups]
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = factor * lr
        norm = step()
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = lr
        return norm

    engine.optimizer_step = smaller_step
    try:
        yield
    finally:
        del engine.optimizer_step


def over_shards(engine: Any, sums: Tensor) -> list[float]:
    """Add numbers of a rank's shard up over one copy of the model."""
    mesh = engine.device_mesh
    sums = sums.to(mesh.device_type)
    # The shards of one copy lie along "fsdp"; along "ddp" there are whole copies.
    torch.distributed.all_reduce(sums, group=mesh.get_group("fsdp"))
    return sums.tolist()


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard, in float32."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().float()
