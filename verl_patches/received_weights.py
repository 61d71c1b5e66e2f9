"""Let the receiver of a weight sync hand on copies instead of views of shared memory.

Upstream  verl 0.9.1, verl/workers/rollout/vllm_rollout/bucketed_weight_transfer.py:
          BucketedWeightReceiver.receive_weights
Why       it moves each tensor out of the segment with `.to(device)`, which on a CPU is no copy;
          closing the segment then fails with "cannot close exported pointers exist".
What      the callback gets copies. The receiver's own clean-up stays: it sends the last ack.
Remove    once upstream copies when the device is a CPU.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import wrapt

from verl_patches.guard import expect

MODULE = "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer"
OnBucket = Callable[[list[tuple[str, torch.Tensor]], bool], None]


def with_copies(on_bucket_received: OnBucket) -> OnBucket:
    """Return the same callback, which then gets tensors that own their memory."""

    def receive(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
        copies = [(name, weight.clone()) for name, weight in weights]
        # The tensors of the caller's list are views of the segment, which must be released here.
        weights.clear()
        on_bucket_received(copies, is_last)

    return receive


def hand_on_copies(wrapped: Callable[..., None], instance: Any, args: tuple, kwargs: dict) -> None:
    """Call upstream with a callback that copies."""
    [on_bucket_received] = [*args, *kwargs.values()]
    wrapped(with_copies(on_bucket_received))


def patch(module: ModuleType) -> None:
    """Wrap `BucketedWeightReceiver.receive_weights`."""
    upstream = module.BucketedWeightReceiver.receive_weights
    expect(upstream, package="verl", sha256="229fcae433ae")
    wrapt.wrap_function_wrapper(module, upstream.__qualname__, hand_on_copies)


def apply() -> None:
    """Patch verl when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
