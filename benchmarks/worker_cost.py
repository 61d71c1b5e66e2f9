"""Measure time and peak memory of our loss and gradient, relative to verl's in one process."""

import gc
import statistics
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from benchmarks.timing import SEED, median_with_interval, seconds
from recipe.objectives.losses.weighted import WEIGHT_COLUMN, weighted_ppo_loss


class PeakBytes(TorchDispatchMode):
    """Record the peak bytes of tensors made inside, counted at every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and not tensor.is_nested:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def micro_batch(rows: int, tokens: int, dtype: torch.dtype, device: str):
    """Return a micro-batch as the engine passes it to a loss, and the leaf under its log-probs."""
    generator = torch.Generator().manual_seed(SEED)
    prompt = 16
    length_N = torch.randint(tokens // 2, tokens + 1, (rows,), generator=generator)
    length_N[0] = tokens

    def nested(make: Callable[[int], torch.Tensor], extra: int = 0) -> torch.Tensor:
        parts = [make(int(length) + extra).to(device) for length in length_N]
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    def log_probs(length: int) -> torch.Tensor:
        return (-torch.rand(length, generator=generator)).to(dtype)

    signs = iter([1.0, -1.0] * rows)
    data = TensorDict(
        {
            "prompts": torch.nested.as_nested_tensor(
                [torch.zeros(prompt, dtype=torch.long, device=device)] * rows, layout=torch.jagged
            ),
            "responses": nested(lambda n: torch.zeros(n, dtype=torch.long)),
            "response_mask": nested(lambda n: torch.ones(n, dtype=torch.long)),
            "old_log_probs": nested(log_probs),
            "advantages": nested(lambda n: torch.full((n,), next(signs))),
            WEIGHT_COLUMN: (1.0 / length_N).float().to(device),
        },
        batch_size=rows,
    )
    facts = {"dp_size": 1, "batch_num_tokens": int(length_N.sum()), "global_batch_size": rows}
    tu.assign_non_tensor(data, **facts)
    leaf = nested(log_probs, prompt).detach().requires_grad_()
    return data, leaf


def worker(rows: int, tokens: int, repetitions: int) -> dict[str, Any]:
    """Measure time and peak memory of loss and gradient, ours over verl's with token-mean."""
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    base = FSDPActorConfig(strategy="fsdp2", rollout_n=1, use_dynamic_bsz=True)
    found = []
    for device in devices:
        for dtype in (torch.float32, torch.bfloat16):
            data, leaf = micro_batch(rows, tokens, dtype, device)

            def run(loss_fn, config, data=data, leaf=leaf):
                leaf.grad = None
                loss, _ = loss_fn(config, {"log_probs": leaf}, data)
                loss.backward()

            ours = partial(run, weighted_ppo_loss, base)
            verls = partial(run, ppo_loss, base)
            row: dict[str, Any] = {"device": device, "dtype": str(dtype).removeprefix("torch.")}
            row |= paired_times(ours, verls, repetitions, device)
            row |= peaks(ours, verls, device)
            row["memory_ratio"] = row["peak_bytes"] / row["peak_bytes_verl"]
            found.append(row)
    return {"rows": rows, "tokens": tokens, "repetitions": repetitions, "cases": found}


def paired_times(ours, verls, repetitions: int, device: str) -> dict[str, Any]:
    """Return the median ratio of two adjacent runs, in alternating order."""

    def timed(run: Callable[[], None]) -> float:
        def whole() -> None:
            run()
            if device == "cuda":
                torch.cuda.synchronize()

        return seconds(whole)

    for _ in range(20):
        timed(ours), timed(verls)
    pairs = []
    for repetition in range(repetitions):
        if repetition % 2:
            pairs.append((timed(ours), timed(verls)))
        else:
            pairs.append(tuple(reversed((timed(verls), timed(ours)))))
    return {
        "seconds": statistics.median(own for own, _ in pairs),
        "seconds_verl": statistics.median(other for _, other in pairs),
        "time_ratio": median_with_interval([own / other for own, other in pairs]),
    }


def peaks(ours, verls, device: str) -> dict[str, int]:
    """Return the peak bytes of each above what was there before."""
    found = {}
    for key, run in (("peak_bytes", ours), ("peak_bytes_verl", verls)):
        gc.collect()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            found[key] = torch.cuda.max_memory_allocated() - before
        else:
            with PeakBytes() as counted:
                run()
            found[key] = counted.peak
    return found
