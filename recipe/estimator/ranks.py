"""Let the processes that torchrun started measure one model together.

Every rank holds a shard of each parameter, and of each gradient. An inner product of gradients is
the sum of the shards' inner products, so nothing but such sums is exchanged.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# Ranks wait for the first while it samples.
PATIENCE = timedelta(days=2)


def rank() -> int:
    """Return the number of this process, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    """Return how many processes there are, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def device() -> str:
    """Return where this rank computes: a GPU of its own if there is one."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def meet() -> None:
    """Wait until all ranks are here."""
    if num_ranks() == 1:
        return
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        # As verl does, which uses the group that there is.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    added(torch.zeros(1))


def least(number: int) -> int:
    """Return the smallest of the ranks' numbers, on every rank."""
    found = torch.tensor(number)
    if num_ranks() > 1:
        dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def added(tensor: Tensor) -> Tensor:
    """Return the sum of the ranks' tensors, on every rank."""
    if num_ranks() > 1:
        dist.all_reduce(tensor)
    return tensor
