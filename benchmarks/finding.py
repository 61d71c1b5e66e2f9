"""Measure every rule as a gradient estimator on the demo's two tasks.

    python -m benchmarks.finding [--jobs 2]       # what is missing; all takes an hour of CPU

A cell is a task, a policy (at the start, or after half of the demo's training) and a seed of the
prompts. Each is written to benchmarks/results/finding; a cell that is there is not measured again.
`python -m benchmarks.finding_tables` reads them, `python -m benchmarks.finding_again` repeats two.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.files import write_atomically
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance
from recipe.config.compose import composed, resolve
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.options import Options
from recipe.maths.rules import MICRO, RULES
from recipe.tasks import embedded

Cell = tuple[str, str, int]
RESULTS = Path(__file__).parent / "results" / "finding"
WORK = ROOT / "outputs" / "finding"
TASKS, POLICIES, SEEDS = ("length_gap", "length_spread"), ("start", "half"), range(5)
GROUPS, BATCHES = (8, 16), (4, 8, 16)
BASELINE, HALF = "token", 15
# The setting whose steps are measured, and that most tables show.
GROUP, BATCH = 8, 8
OPTIONS = Options(
    prompts=96,
    group=max(GROUPS),
    batch_groups=8,
    rules=tuple(name for name in RULES if name not in ("lambda", MICRO)),
    advantage="std",
    baseline=BASELINE,
    sketch=2**14,
    fresh=48,
    step_batches=3,
    sampler="transformers",
    seed=0,
)


def half_trained(task: str) -> Path:
    """Return the folder of the demo's model after half of its training; train it if needed."""
    outputs = WORK / f"half-{task}"
    found = [*outputs.glob(f"cpu_demo/*/exported/global_step_{HALF}")]
    if found:
        return found[0]
    command = [sys.executable, "-m", "recipe.main", "+experiment=cpu_demo"]
    command += [f"data=arithmetic_{task}", "aggregation=token_batch", f"output_root={outputs}"]
    command += [f"trainer.total_training_steps={HALF}", f"trainer.save_freq={HALF}"]
    command += ["trainer.test_freq=-1", "trainer.val_before_train=false"]
    subprocess.run(command, cwd=ROOT, check=True)
    [run] = outputs.glob("cpu_demo/*/checkpoints")
    subprocess.run([sys.executable, "-m", "scripts.export", str(run.parent)], cwd=ROOT, check=True)
    return run.parent / "exported" / f"global_step_{HALF}"


def cell_path(task: str, policy: str, seed: int, folder: Path = RESULTS) -> Path:
    """Return the file of a cell."""
    return folder / f"{task}-{policy}-s{seed}.json"


def measure_cell(
    task: str, policy: str, seed: int, model: str | None, made_by: Any, out: Path
) -> str:
    """Measure one cell, and write its file into a folder."""
    torch.set_num_threads(1)
    overrides = ["+experiment=cpu_demo", f"data=arithmetic_{task}", f"seed={seed}"]
    overrides += [f"actor_rollout_ref.model.path={model}"] if model else []
    config = composed(overrides)
    resolve(config)
    folder = WORK / "kept" / f"{task}-{policy}-s{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (WORK / f"{task}-{policy}-s{seed}.log").open("w") as log:

        def say(text: str) -> None:
            print(text, file=log, flush=True)

        options = OPTIONS._replace(seed=seed)
        kept = collect(config, options, folder, say)
        found = []
        for group, batch in product(GROUPS, BATCHES):
            steps = options.step_batches if (group, batch) == (GROUP, BATCH) else 0
            asked = options._replace(group=group, batch_groups=batch, step_batches=steps)
            found.append(judge(kept.first(group), asked, say))
    cell = {"task": task, "policy": policy, "seed": seed, "settings": found, **made_by}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(cell_path(task, policy, seed, out), json.dumps(cell, indent=1) + "\n")
    shutil.rmtree(folder)
    return f"{task}, {policy}, seed {seed}"


def measure(cells: Sequence[Cell], jobs: int, out: Path) -> None:
    """Measure cells that are missing in a folder."""
    cells = [cell for cell in cells if not cell_path(*cell, out).exists()]
    models: dict[tuple[str, str], str | None] = {}
    for task in TASKS:
        embedded.make(task)
        models[task, "start"] = None
        if any((task, "half") == cell[:2] for cell in cells):
            models[task, "half"] = str(half_trained(task))
    made_by = provenance("benchmarks.finding")
    # Two cells at a time on two cores; each is one process with one thread.
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = [
            pool.submit(measure_cell, *cell, models[cell[:2]], made_by, out) for cell in cells
        ]
        for number, done in enumerate(as_completed(running), 1):
            print(f"{number} of {len(cells)}  {done.result()}", flush=True)


def read_cells() -> list[dict[str, Any]]:
    """Return the measured cells.

    Raises:
        UserError: some are missing.
    """
    paths = [cell_path(*cell) for cell in product(TASKS, POLICIES, SEEDS)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(paths)} cells are missing in {RESULTS}, such as {missing[0]}. "
            f"Run python -m benchmarks.finding measure."
        )
    return [json.loads(path.read_text()) for path in paths]


def main() -> None:
    """Measure what is missing."""
    command = command_parser("benchmarks.finding", __doc__)
    jobs = min(2, os.cpu_count() or 1)
    command.add_argument("--jobs", type=int, default=jobs, help="cells at a time, one core each")
    given = command.parse_args()
    with errors_reported(stopped="stopped; finished cells are kept"):
        measure(list(product(TASKS, POLICIES, SEEDS)), given.jobs, RESULTS)


if __name__ == "__main__":
    main()
