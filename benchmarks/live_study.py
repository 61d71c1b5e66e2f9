"""Train the study's two clearest differences on the live stack, and compare with the laboratory.

    python -m benchmarks.live_study run              # 2 minutes a run; a restart repeats none
    python -m benchmarks.live_study run_laboratory   # 15 seconds a run
    python -m benchmarks.live_study differences --into docs/finding.md
    python -m benchmarks.live_study levels --into docs/finding.md

A live run has the config of a run of configs/study/finding.yaml, with the learning rate that the
study chose. Live runs of a seed are paired: same prompts, same seed of every sampling request. Live
seeds and those of the study are not, because the two shuffle and sample differently. To compare the
levels, `run_laboratory` trains the laboratory on the prompts of the live runs, in their order.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from scipy import stats
from verl.trainer.ppo.utils import create_rl_sampler

from eval.study_arms import LEVEL, t_interval
from eval.study_results import Row, compared, read_results
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS, ROOT
from recipe.base.progress import progress
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.config.compose import composed, resolve
from recipe.run.folder import read_metrics
from recipe.study.plan import Run, Study
from recipe.study.runs import Results, laboratory_of

RESULTS = Path(__file__).parent / "results" / "live_study"
LIVE, SAME_PROMPTS = RESULTS / "results.jsonl", RESULTS / "laboratory.jsonl"
BASELINE = "token"
# Of the rules that weigh within a sign, and of those that balance, the difference that is clearest.
COMPARED = {"wrong_longer_varied": "sequence", "wrong_shorter_steady": "balanced"}
# For the laboratory's differences and deviations, 11 and 12 seeds have a power of 80 %.
SEEDS = 12


def missing(study: Study, results: Results, seeds: Sequence[int]) -> list[Run]:
    """Return the runs without a result, all runs of a seed together."""
    laboratory = read_results(study.folder)
    rates = {cell: study.rates(cell, laboratory) for cell in COMPARED}
    runs = [
        Run(cell, arm, rates[cell][arm], seed)
        for seed in seeds
        for cell, other in COMPARED.items()
        for arm in (BASELINE, other)
    ]
    return results.missing(study, runs)


def train(study: Study, run: Run, outputs: Path) -> Row:
    """Train one run with `recipe.main`, and return its result in the study's form.

    Raises:
        UserError: it failed.
    """
    folder = outputs / run.cell
    overrides = study.config_overrides(run)
    command = [sys.executable, "-m", "recipe.main", *overrides, f"output_root={folder}"]
    # The area is of the training responses.
    command += ["trainer.val_before_train=false", "trainer.test_freq=-1"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    [found] = folder.glob(f"*/{run.arm}-s{run.seed}-*")
    summary = json.loads((found / "summary.json").read_text())
    curve = [data["reward/correct"] for step, data in read_metrics(found) if step > 0]
    return {
        **run._asdict(),
        "is_selection": False,
        "correct": curve,
        "overrides": overrides,
        "seconds": summary["seconds"],
    }


def train_in_laboratory(study: Study, run: Run) -> Row:
    """Train one run in this process, on the prompts that the live stack takes, in its order."""
    started = time.monotonic()
    overrides = study.config_overrides(run)
    config = composed(overrides)
    resolve(config)
    laboratory = laboratory_of(config)
    order = create_rl_sampler(config.data, laboratory.rows)
    steps = laboratory.train(config, [laboratory.rows[place] for place in order])
    curve = [step.correct for step in steps]
    return {
        **run._asdict(),
        "is_selection": False,
        "correct": curve,
        "overrides": overrides,
        "seconds": round(time.monotonic() - started, 1),
    }


def changes(rows: Sequence[Row], cell: str, arm: str) -> list[float]:
    """Return an arm's difference in area to the baseline on each common seed, in points."""
    runs = compared(rows, cell)
    mine, other = runs[arm], runs[BASELINE]
    return [
        100 * (fmean(mine[seed]["correct"]) - fmean(other[seed]["correct"]))
        for seed in sorted(mine.keys() & other.keys())
    ]


def differences(live: Sequence[Row], laboratory: Sequence[Row]) -> list[str]:
    """Return the differences of both stacks, and the difference between them (Welch)."""
    lines = []
    for cell, arm in COMPARED.items():
        both = [changes(rows, cell, arm) for rows in (live, laboratory)]
        shown = []
        for found in both:
            shown += [str(len(found)), mean_and_half(found)]
        test = stats.ttest_ind(*both, equal_var=False)
        low, high = test.confidence_interval(LEVEL)
        between = f"{(low + high) / 2:+.2f} +- {(high - low) / 2:.2f}"
        lines.append((cell, f"`{arm}` - `{BASELINE}`", *shown, between))
    head = ("cell", "area, points", "live seeds", "live stack")
    return markdown_table(
        (*head, "laboratory seeds", "laboratory", "live stack - laboratory"), lines
    )


def levels(live: Sequence[Row], laboratory: Sequence[Row]) -> list[str]:
    """Return the areas of both stacks on the same prompts, paired by seed."""
    lines = []
    for cell, other in COMPARED.items():
        for arm in (BASELINE, other):
            runs = [compared(rows, cell)[arm] for rows in (live, laboratory)]
            seeds = sorted(runs[0].keys() & runs[1].keys())
            areas = [[100 * fmean(one[seed]["correct"]) for seed in seeds] for one in runs]
            between = [mine - theirs for mine, theirs in zip(*areas, strict=True)]
            means = (f"{fmean(area):.2f}" for area in areas)
            lines.append((cell, f"`{arm}`", str(len(seeds)), *means, mean_and_half(between)))
    head = ("cell", "area, points", "seeds", "live stack", "laboratory, same prompts")
    return markdown_table((*head, "live stack - laboratory"), lines)


def mean_and_half(values: Sequence[float]) -> str:
    """Return a mean and half of its t interval."""
    found = t_interval(values)
    return f"{found.estimate:+.2f} +- {(found.high - found.low) / 2:.2f}"


def add_missing(
    study: Study, path: Path, seeds: Sequence[int], train_one: Callable[[Run], Row]
) -> None:
    """Train the runs without a result in a file, and add each result as soon as it is there."""
    # Asked before the first result is written: it makes the work tree dirty.
    made_by = provenance("benchmarks.live_study")
    results = Results(path)
    for run in progress(iterable=missing(study, results, seeds), desc=path.stem, unit="run"):
        results.add(train_one(run) | made_by)


def main() -> None:
    """Train what is missing, or print a table."""
    parser = command_parser("benchmarks.live_study", __doc__)
    parser.add_argument("part", choices=["run", "run_laboratory", "differences", "levels"])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(SEEDS), metavar="SEED")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "live_study")
    add_into(parser, "live_PART")
    given = parser.parse_args()
    study = Study.read(CONFIGS / "study" / "finding.yaml")
    with errors_reported(stopped="stopped; the same command goes on"):
        if given.part == "run":
            outputs = given.outputs.absolute()
            add_missing(study, LIVE, given.seeds, lambda run: train(study, run, outputs))
        elif given.part == "run_laboratory":
            add_missing(
                study, SAME_PROMPTS, given.seeds, lambda run: train_in_laboratory(study, run)
            )
        else:
            made, beside = {
                "differences": (differences, study.folder),
                "levels": (levels, SAME_PROMPTS),
            }[given.part]
            lines = made(read_results(LIVE), read_results(beside))
            show_table(lines, f"live_{given.part}", given.into)


if __name__ == "__main__":
    main()
