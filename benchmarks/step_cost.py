"""What the recipe adds to a training step, in seconds and bytes.

    python -m benchmarks.step_cost driver              # ids, weights, diagnostics of a batch
    python -m benchmarks.step_cost worker              # the loss against verl's own, paired
    python -m benchmarks.step_cost steps outputs/...   # our phases inside finished runs

Each writes benchmarks/results/step_cost/NAME.json. Ratios are paired in one process, because
machines are noisy; intervals are percentile bootstraps of the median over repetitions.
"""

import argparse
import gc
import json
import statistics
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss

from recipe.aggregation import RULES
from recipe.columns import group_numbers
from recipe.diagnostics import diagnose
from recipe.outputs import provenance, read_metrics
from recipe.policy_loss import WEIGHT_COLUMN, for_worker, weighted_ppo_loss
from recipe.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "step_cost"
SEED = 0
GROUP = 16
SIZES = [2**power for power in range(10, 21, 2)]
TARGET_SIZE = 65_536
RULES_HERE = {**RULES, "constant": partial(RULES["constant"], limit=8192.0)}


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def median_with_interval(values: list[float]) -> dict[str, float]:
    """Median and its 95 % interval."""
    sample = np.random.default_rng(SEED).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(sample, axis=1), [0.025, 0.975])
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def batch_of(size: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Prompt ids, lengths and advantages of `size` responses in groups, shuffled."""
    random = np.random.default_rng(SEED)
    uids = [str(uuid.UUID(bytes=random.bytes(16))) for _ in range(size // GROUP)]
    score = torch.from_numpy(random.random((size // GROUP, GROUP)) < 0.4).double()
    advantage = (score - score.mean(1, keepdim=True)).flatten()
    length = torch.from_numpy(random.integers(1, 8192, size))
    order = random.permutation(size)
    # As out of a queue, where equal ids are not the same string object.
    names = ["".join(list(uids[row // GROUP])) for row in order]
    return names, length[order], advantage[order]


def vectorised(group_N: torch.Tensor, length_N: torch.Tensor, advantage_N: torch.Tensor):
    """What `recipe.trainer` computes for a step."""
    weights = {name: rule(length_N, advantage_N, group_N) for name, rule in RULES_HERE.items()}
    return weights, diagnose(length_N, advantage_N, group_N, weights, "balanced")


def per_group_loop(uids: list[str], length_N: torch.Tensor, advantage_N: torch.Tensor):
    """The same weights and group metrics, with a loop over the groups as RL code usually has."""
    members = defaultdict(list)
    for row, uid in enumerate(uids):
        members[uid].append(row)
    weights = {name: torch.zeros(len(uids), dtype=torch.double) for name in RULES_HERE}
    gaps, variations = [], []
    mean_of_batch = length_N.double().mean()
    for rows in members.values():
        index = torch.tensor(rows)
        length, advantage = length_N[index].double(), advantage_N[index]
        mean, std = length.mean(), length.std(unbiased=False)
        h = 1 + (length - mean) / std / 9
        weights["sequence"][index] = 1 / length
        weights["token"][index] = 1 / mean
        weights["token_batch"][index] = 1 / mean_of_batch
        weights["constant"][index] = 1 / 8192.0
        weights["lambda"][index] = len(rows) * torch.softmax(h**0.0, 0) / mean
        for side in (advantage > 0, advantage < 0, advantage == 0):
            if side.any():
                weights["balanced"][index[side]] = 1 / length[side].mean()
        variations.append((std / mean).item())
        if (advantage > 0).any():
            gap = (length[advantage < 0].mean() - length[advantage > 0].mean()) / mean
            gaps.append(gap.item())
    metrics = {
        "aggregation/length_gap": statistics.fmean(gaps),
        "aggregation/length_variation": statistics.fmean(variations),
    }
    for name, weight_N in weights.items():
        mass = weight_N * length_N * advantage_N.abs()
        positive = (mass[advantage_N > 0].sum() / mass.sum()).item()
        metrics[f"aggregation/share_positive/{name}"] = positive
    return weights, metrics


def driver() -> dict[str, Any]:
    """Seconds on one core for each size, and the loop at the target size."""
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        measured = defaultdict(list)
        for _ in range(5 if size > TARGET_SIZE else 15):
            uids, length_N, advantage_N = batch_of(size)
            gc.collect()
            measured["ids"].append(seconds(lambda u=uids: group_numbers(u)))
            group_N = group_numbers(uids)
            run = partial(vectorised, group_N, length_N, advantage_N)
            measured["from_numbers"].append(seconds(run))
            measured["from_ids"].append(measured["ids"][-1] + measured["from_numbers"][-1])
        row = {"responses": size} | {k: median_with_interval(v) for k, v in measured.items()}
        if size == TARGET_SIZE:
            found = vectorised(group_N, length_N, advantage_N)
            expected = per_group_loop(uids, length_N, advantage_N)
            for name, weight_N in expected[0].items():
                torch.testing.assert_close(found[0][name], weight_N)
            for key, value in expected[1].items():
                assert abs(found[1][key] - value) < 1e-9, key
            loop = [seconds(partial(per_group_loop, uids, length_N, advantage_N)) for _ in range(3)]
            row["loop"] = median_with_interval(loop)
            row["loop_over_ours"] = row["loop"]["median"] / row["from_ids"]["median"]
        rows.append(row)
        print(f"{size} responses: {1e3 * row['from_ids']['median']:.1f} ms", flush=True)
    # The slope of log time over log size from 16k on is 1 where growth is linear.
    big = [row for row in rows if row["responses"] >= 16_384]
    growth = np.polyfit(
        np.log([row["responses"] for row in big]),
        np.log([row["from_ids"]["median"] for row in big]),
        1,
    )[0]
    return {"group": GROUP, "threads": 1, "growth_exponent": float(growth), "sizes": rows}


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside it held at a time, counted at every operation."""

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
    """A micro-batch as the engine hands it to a loss, and the leaf under its log-probs."""
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
    """Time and peak memory of loss and gradient, ours over verl's vanilla with token-mean."""
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

            ours = partial(run, weighted_ppo_loss, for_worker(base))
            verls = partial(run, ppo_loss, base)
            row = {"device": device, "dtype": str(dtype).removeprefix("torch.")}
            row |= paired_times(ours, verls, repetitions, device)
            row |= peaks(ours, verls, device)
            row["memory_ratio"] = row["peak_bytes"] / row["peak_bytes_verl"]
            found.append(row)
    return {"rows": rows, "tokens": tokens, "repetitions": repetitions, "cases": found}


def paired_times(ours, verls, repetitions: int, device: str) -> dict[str, Any]:
    """Median of the ratio of two runs next to each other, in alternating order."""

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
    """Peak bytes above what is there before, of each."""
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


def steps(folders: list[Path]) -> dict[str, Any]:
    """The share of a step that our phases take, from the metrics of finished runs."""
    shares, phase_seconds, step_seconds = [], [], []
    for folder in folders:
        for _, data in read_metrics(folder):
            if "timing_s/aggregation" in data:
                ours = data["timing_s/aggregation"] + data["actor/update_norm_seconds"]
                phase_seconds.append(ours)
                step_seconds.append(data["timing_s/step"])
                shares.append(ours / data["timing_s/step"])
    return {
        "runs": [folder.name for folder in folders],
        "steps": len(shares),
        "seconds": median_with_interval(phase_seconds),
        "step_seconds": median_with_interval(step_seconds),
        "share": median_with_interval(shares),
    }


def flat(result: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Every number of a result with its dotted name."""
    found = []
    for key, value in result.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            for number, part in enumerate(value):
                if isinstance(part, dict):
                    found += flat(part, f"{prefix}{key}[{number}].")
        else:
            found.append((prefix + key, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return found


def main() -> None:
    """Measure one part, print it, and write its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["driver", "worker", "steps"])
    parser.add_argument("folders", nargs="*", type=Path, help="runs, for steps")
    parser.add_argument("--rows", type=int, default=8, help="responses of the worker's micro-batch")
    parser.add_argument("--tokens", type=int, default=8192, help="its longest response")
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--name", help="of the JSON file; the part's by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where it goes")
    given = parser.parse_args()
    if given.part == "steps" and not given.folders:
        parser.error("steps needs the folders of finished runs, e.g. outputs/cpu_demo/balanced-s0")
    result = {
        "driver": driver,
        "worker": lambda: worker(given.rows, given.tokens, given.repetitions),
        "steps": lambda: steps(given.folders),
    }[given.part]()
    print("\n".join(markdown_table(("quantity", "value"), flat(result))))
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{given.name or given.part}.json"
    path.write_text(
        json.dumps({**result, "seed": SEED, **provenance("benchmarks.step_cost")}, indent=2) + "\n"
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
