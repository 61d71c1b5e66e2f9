"""Measure what the recipe adds to a training step, in seconds and bytes.

    python -m benchmarks.step_cost driver              # ids, weights, diagnostics of a batch
    python -m benchmarks.step_cost worker              # the loss against verl's own, paired
    python -m benchmarks.step_cost steps outputs/...   # our phases inside finished runs
    python -m benchmarks.step_cost table --into README.md

Each writes benchmarks/results/step_cost/NAME.json. Ratios are paired in one process, because
machines are noisy; intervals are percentile bootstraps of the median over repetitions.
"""

import gc
import json
import statistics
import uuid
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import SEED, median_with_interval, seconds
from benchmarks.worker_cost import worker
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.maths.aggregation import AggregationSettings
from recipe.maths.columns import group_numbers, prompt_of
from recipe.maths.diagnostics import diagnose
from recipe.run.folder import read_metrics

RESULTS = Path(__file__).parent / "results" / "step_cost"
GROUP = 16
SIZES = [2**power for power in range(10, 21, 2)]
TARGET_SIZE = 65_536
RULES_HERE = AggregationSettings("balanced", constant_length=8192.0).rules()


def batch_of(size: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Return prompt ids, lengths and advantages of `size` responses in groups, shuffled."""
    random = np.random.default_rng(SEED)
    uids = [str(uuid.UUID(bytes=random.bytes(16))) for _ in range(size // GROUP)]
    score = torch.from_numpy(random.random((size // GROUP, GROUP)) < 0.4).double()
    advantage = (score - score.mean(1, keepdim=True)).flatten()
    length = torch.from_numpy(random.integers(1, 8192, size))
    order = random.permutation(size)
    # As out of a queue: equal ids are not the same string object.
    names = ["".join(list(uids[row // GROUP])) for row in order]
    return names, length[order], advantage[order]


def vectorised(group_N: torch.Tensor, length_N: torch.Tensor, advantage_N: torch.Tensor):
    """Compute what `recipe.training.trainer` computes from lengths, advantages and groups."""
    weights = {name: rule(length_N, advantage_N, group_N) for name, rule in RULES_HERE.items()}
    return weights, diagnose(length_N, advantage_N, group_N, weights, "balanced")


def per_group_loop(uids: list[str], length_N: torch.Tensor, advantage_N: torch.Tensor):
    """Compute the same weights and metrics with a loop over groups, as is common in RL code."""
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
        weights["sequence"][index] = 1 / length
        weights["token"][index] = 1 / mean
        weights["token_batch"][index] = 1 / mean_of_batch
        weights["constant"][index] = 1 / 8192.0
        for side in (advantage > 0, advantage < 0, advantage == 0):
            if side.any():
                weights["balanced"][index[side]] = 1 / length[side].mean()
        variations.append((std / mean).item())
        if (advantage > 0).any():
            gap = (length[advantage < 0].mean() - length[advantage > 0].mean()) / mean
            gaps.append(gap.item())
    power = length_N.double() ** -0.75
    weights["vl_norm"] = power / power.mean() / 8192.0
    for side in (advantage_N > 0, advantage_N < 0, advantage_N == 0):
        if side.any():
            length, size = length_N[side].double(), advantage_N[side].abs()
            weights["balanced_batch"][side] = 1 / length.mean()
            square = length.square().mean() / length_N.double().mean()
            weights["balanced_square"][side] = 1 / square
            by_size = (size * length).sum() / size.sum() if size.any() else length.mean()
            weights["balanced_batch_weighted"][side] = 1 / by_size
    metrics = {
        "aggregation/length_gap": statistics.fmean(gaps),
        "aggregation/length_variation": statistics.fmean(variations),
    }
    for name, weight_N in weights.items():
        part_N = weight_N * length_N * advantage_N.abs()
        positive = (part_N[advantage_N > 0].sum() / part_N.sum()).item()
        metrics[f"aggregation/objective_share_positive/{name}"] = positive
    return weights, metrics


def driver() -> dict[str, Any]:
    """Measure the seconds on one core for each size, and of the loop at the target size."""
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        measured = defaultdict(list)
        uids, length_N, advantage_N = batch_of(size)
        keys = [f"{uid}_{row % GROUP}_0" for row, uid in enumerate(uids)]
        group_N = group_numbers(uids)
        gc.collect()
        for _ in range(7 if size > TARGET_SIZE else 25):
            measured["ids"].append(seconds(partial(group_numbers, uids)))
            measured["prompts_of_keys"].append(seconds(lambda k=keys: list(map(prompt_of, k))))
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


def steps(folders: list[Path]) -> dict[str, Any]:
    """Return the share of a step that our phases take, from finished runs of one update a step."""
    shares, phase_seconds, step_seconds = [], [], []
    for folder in folders:
        for _, data in read_metrics(folder):
            if "timing_s/aggregation" in data:
                ours = data["timing_s/aggregation"] + data["actor/update_norm_seconds"]
                phase_seconds.append(ours)
                step_seconds.append(data["timing_s/step"])
                shares.append(ours / data["timing_s/step"])
    return {
        "runs": {
            folder.name: json.loads((folder / "summary.json").read_text())["commit"]
            for folder in folders
        },
        "steps": len(shares),
        "seconds": median_with_interval(phase_seconds),
        "step_seconds": median_with_interval(step_seconds),
        "share": median_with_interval(shares),
    }


def summary(results: Path) -> list[str]:
    """Return a Markdown table of the committed results beside their aims."""
    driver, worker, steps = (
        json.loads((results / f"{part}.json").read_text()) for part in ("driver", "worker", "steps")
    )

    def ms(found: dict[str, float]) -> str:
        return "{median:.1f} ms [{low:.1f}, {high:.1f}]".format(
            **{key: 1e3 * value for key, value in found.items()}
        )

    [row] = [row for row in driver["sizes"] if row["responses"] == TARGET_SIZE]
    lines = [
        (
            f"driver: weights and diagnostics of {TARGET_SIZE:,} responses",
            ms(row["from_ids"]),
            "60 ms",
        ),
        ("the same from group numbers", ms(row["from_numbers"]), "20 ms"),
        ("a per-group loop takes longer by", f"{row['loop_over_ours']:.0f} times", "100 times"),
        (
            f"exponent of the growth from 16 k to {SIZES[-1]:,} responses",
            f"{driver['growth_exponent']:.2f}",
            "1",
        ),
    ]
    for case in worker["cases"]:
        name = f"worker on {case['device']}, {case['dtype']}"
        ratio = "{median:.3f} [{low:.3f}, {high:.3f}]".format(**case["time_ratio"])
        lines.append((f"{name}: time over verl's vanilla with token-mean", ratio, "1.02"))
        lines.append((f"{name}: peak memory over it", f"{case['memory_ratio']:.4f}", "1.01"))
    share = "{median:.2%} [{low:.2%}, {high:.2%}]".format(**steps["share"])
    lines.append(
        ("our phases in a step of the CPU demo", f"{share} ({ms(steps['seconds'])})", "1 %")
    )
    return markdown_table(("cost", "measured", "aim"), lines)


def flat(result: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return every number of a result with its dotted name."""
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
    parser = command_parser("benchmarks.step_cost", __doc__)
    parser.add_argument("part", choices=["driver", "worker", "steps", "table"])
    parser.add_argument("folders", nargs="*", type=Path, help="runs, for steps")
    parser.add_argument("--rows", type=int, default=8, help="responses of the worker's micro-batch")
    parser.add_argument("--tokens", type=int, default=8192, help="its longest response")
    parser.add_argument("--repetitions", type=int, default=300)
    add_into(parser, "cost")
    parser.add_argument("--name", help="of the JSON file; the part's by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where it goes")
    given = parser.parse_args()
    if given.part == "steps" and not given.folders:
        parser.error("steps needs the folders of finished runs, e.g. outputs/cpu_demo/balanced-s0")
    if given.part == "table":
        with errors_reported():
            show_table(summary(given.results), "cost", given.into)
        return
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
