"""Measure time and memory of `python -m recipe.analyze` on a dump of a million responses.

    python -m benchmarks.analyze_cost                    # about a minute and 3 GB of disk

Makes the dump from a seed in a temporary folder, runs the command on it, and writes what it cost
to benchmarks/results/analyze_cost/.
"""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recipe.base.command import command_parser
from recipe.base.provenance import provenance

RESULTS = Path(__file__).parent / "results/analyze_cost"


def write_dump(folder: Path, num_responses: int, num_bytes: int, per_step: int, seed: int) -> None:
    """Write a dump with `per_step` responses a step, 8 a group, about `num_bytes` each."""
    dice = random.Random(seed)
    words = " ".join(str(dice.randrange(10**6)) for _ in range(num_bytes // 3))
    for begin in range(0, num_responses, per_step):
        step = begin // per_step + 1
        with (folder / f"{step}.jsonl").open("w") as file:
            for number in range(begin, min(begin + per_step, num_responses)):
                correct = dice.random() < 0.4
                tokens = 1 + int(dice.lognormvariate(6.0 if correct else 6.3, 0.6))
                row = {
                    "input": "What is the sum of the numbers below?",
                    "output": words[(offset := dice.randrange(97)) : offset + num_bytes - 200],
                    "gts": "42",
                    "score": float(correct),
                    "step": step,
                    "uid": f"{number // 8:032x}_{number % 8}_0",
                    "response_length": tokens,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(command: list[str]) -> dict[str, float]:
    """Return wall seconds, processor seconds and peak memory of a command that succeeds."""
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Make, measure, write."""
    parser = command_parser("benchmarks.analyze_cost", __doc__)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=2048)
    parser.add_argument("--per-step", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dump = Path(temporary) / "rollouts"
        dump.mkdir()
        write_dump(dump, given.responses, given.bytes, given.per_step, given.seed)
        size = sum(path.stat().st_size for path in dump.iterdir())
        command = [sys.executable, "-m", "recipe.analyze", str(dump)]
        cost = measure([*command, "--out", str(Path(temporary) / "analysis")])
    origin = provenance("benchmarks.analyze_cost")
    result = {
        "responses": given.responses,
        "steps": -(-given.responses // given.per_step),
        "dump_gib": round(size / 2**30, 2),
        **cost,
        "seed": given.seed,
        "processor": platform.processor() or platform.machine(),
        "num_processors": os.cpu_count(),
        **origin,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"responses-{given.responses}-s{given.seed}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(cost))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
