"""Measure what each advantage does to the noise of a batch's gradient, on the demo's two tasks.

    python -m benchmarks.advantages measure [--jobs 2]    # about 10 minutes on two cores
    python -m benchmarks.advantages                       # print the table

The model is the demo's before training. A task under a seed that is measured is not measured again.
"""

import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.files import read_lines
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.config.compose import composed, resolve
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.options import Options
from recipe.estimator.seeds import interval
from recipe.maths.estimators import ADVANTAGES
from recipe.tasks import embedded

RESULT = Path(__file__).parent / "results" / "advantages" / "results.jsonl"
WORK = ROOT / "outputs" / "advantages"
TASKS, SEEDS, RULES = ("length_gap", "length_spread"), range(5), ("constant", "balanced")
SNR, COSINE, BASELINE = "snr/sgd", "cosine/sgd", "none"
OPTIONS = Options(
    prompts=128,
    group=16,
    batch_groups=8,
    rules=RULES,
    advantage=BASELINE,
    baseline=RULES[0],
    sketch=2**14,
    fresh=0,
    step_batches=0,
    sampler="transformers",
    seed=0,
)


def measure_one(task: str, seed: int) -> dict[str, Any]:
    """Return signal-to-noise ratio and cosine of each advantage under each rule."""
    torch.set_num_threads(1)
    config = composed(["+experiment=cpu_demo", f"data=arithmetic_{task}", f"seed={seed}"])
    resolve(config)
    folder = WORK / f"{task}-s{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("w") as log:

        def say(text: str) -> None:
            print(text, file=log, flush=True)

        kept = collect(config, OPTIONS._replace(seed=seed), folder, say)
        found = {
            name: judge(kept, OPTIONS._replace(seed=seed, advantage=name), say)["rules"]
            for name in ADVANTAGES
        }
    shutil.rmtree(folder)
    figures = {
        key: {
            name: {rule: rules[rule][key]["value"] for rule in RULES}
            for name, rules in found.items()
        }
        for key in (SNR, COSINE)
    }
    return {"task": task, "seed": seed, **figures}


def measured() -> list[dict[str, Any]]:
    """Return the results that are there."""
    return list(read_lines(RESULT)) if RESULT.exists() else []


def measure(jobs: int) -> None:
    """Measure what is missing, and add each result as soon as it is there."""
    done = {(result["task"], result["seed"]) for result in measured()}
    missing = [one for one in product(TASKS, SEEDS) if one not in done]
    for task in TASKS:
        embedded.make(task)
    made_by = provenance("benchmarks.advantages measure")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        RESULT.open("a") as file,
    ):
        for future in as_completed([pool.submit(measure_one, *one) for one in missing]):
            file.write(json.dumps(future.result() | made_by) + "\n")
            file.flush()
            print(f"{len(measured())} of {len(TASKS) * len(SEEDS)}", flush=True)


def table() -> list[str]:
    """Return the ratio of each advantage, and its difference to the plain baseline's.

    Raises:
        UserError: results are missing.
    """
    results = sorted(measured(), key=lambda result: result["seed"])
    if len(results) < len(TASKS) * len(SEEDS):
        raise UserError(
            f"{len(results)} of {len(TASKS) * len(SEEDS)} results are there. Run "
            f"python -m benchmarks.advantages measure."
        )
    rows = []
    for name in ADVANTAGES:
        row = [f"`{name}`"]
        for task in TASKS:
            of_task = [result for result in results if result["task"] == task]
            for rule in RULES:
                snr = [result[SNR][name][rule] for result in of_task]
                plain = [result[SNR][BASELINE][rule] for result in of_task]
                gain, half = interval([one - other for one, other in zip(snr, plain, strict=True)])
                shown = "" if name == BASELINE else f" ({gain:+.3f} ± {half:.3f})"
                row.append(f"{fmean(snr):.3f}{shown}")
            row.append(f"{fmean(result[COSINE][name]['constant'] for result in of_task):.3f}")
        rows.append(row)
    header = ["advantage"]
    for task in TASKS:
        header += [*(f"`{task}`, `{rule}`" for rule in RULES), "cosine"]
    return [
        *markdown_table(header, rows),
        "",
        f"Signal-to-noise ratio of the gradient of one batch of {OPTIONS.batch_groups} groups of "
        f"{OPTIONS.group}, mean over {len(SEEDS)} seeds of {OPTIONS.prompts} prompts. In brackets "
        f"the difference to `{BASELINE}`, with its 95 % interval over the seeds. The cosine is "
        f"that of the mean gradient under `constant` with the gradient of the expected score; 1 is "
        f"no bias in direction.",
    ]


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    parser = command_parser("benchmarks.advantages", __doc__)
    parser.add_argument("verb", nargs="?", choices=["measure"], help="without: print the table")
    parser.add_argument("--jobs", type=int, default=2, help="measured at once")
    add_into(parser, "advantages")
    given = parser.parse_args()
    with errors_reported():
        if given.verb:
            measure(given.jobs)
        else:
            show_table(table(), "advantages", given.into)


if __name__ == "__main__":
    main()
