"""Measure how often a nominal 95 % interval for the difference of two rules holds the truth.

    python -m benchmarks.interval_coverage measure                  # about 14 minutes
    python -m benchmarks.interval_coverage table --into README.md

Evaluations of two rules on the same problems are simulated; a sample is correct with log odds

    theta_p + shift + r u_p + t v_s + w z_sp

theta_p is the difficulty of a problem, normal with deviation 4: 45 % of problems are answered in
more than 95 % or less than 5 % of samples. The rest is of each rule: its shift, what it does to a
problem (u), to a training seed (v) and to both (z), all standard normal. v of the two rules under
the same seed correlates by c, and is the same in every task. The truth is the difference of the two
expectations over problems, seeds and samples. Regimes are a grid of t, r and c: with r = 0.7 seeds
add about as much variance as problems do at t = 0.3 and 30 problems, or t = 0.1 and 500; at t = 1
they dominate.

Axes: `_R` replications, `_S` seeds, `_P` problems, `_B` bootstrap samples, `_2` the two rules.
"""

import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats
from tqdm import tqdm

from benchmarks.timing import SEED
from eval.stats import LEAST_VARIANCE, paired_interval
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.tasks.at_k import Floats

RESULT = Path(__file__).parent / "results" / "interval_coverage" / "result.json"
LEVEL = 0.95
DIFFICULTY, SHIFT, SEED_PROBLEM = 4.0, 0.3, 0.3
BOOTSTRAPS = 1000
# Replications simulated at once; each has bootstrap samples of its own.
CHUNK = 100
Interval_R = tuple[Floats, Floats]


class Setting(NamedTuple):
    """Hold the number of seeds, and for each task its problems and samples per problem."""

    name: str
    num_seeds: int
    num_problems: tuple[int, ...]
    num_samples: tuple[int, ...]
    replications: int


class Regime(NamedTuple):
    """Hold the deviations t and r of the model, and the correlation c of both rules in a seed."""

    t: float
    r: float
    c: float


SETTINGS = (
    Setting("3 x 30", 3, (30,), (32,), 5000),
    Setting("5 x 500", 5, (500,), (4,), 5000),
    Setting("2 x 30", 2, (30,), (32,), 5000),
    Setting("3 x 500", 3, (500,), (4,), 5000),
    Setting("3 x six tasks", 3, (500, 30, 30, 674, 272, 400), (4, 32, 32, 4, 4, 4), 2000),
)
# Without a seed effect there is nothing to correlate.
REGIMES = tuple(
    Regime(t, r, c)
    for t, r, c in product((0.0, 0.1, 0.3, 1.0), (0.0, 0.7), (0.0, 0.7))
    if t or not c
)


def truth(regime: Regime) -> float:
    """Return the true difference: each rule's log odds are normal, so one integral gives it."""
    spread = np.sqrt(DIFFICULTY**2 + regime.r**2 + regime.t**2 + SEED_PROBLEM**2)
    grid = np.linspace(-10, 10, 4001)
    mass = stats.norm.pdf(grid) / stats.norm.pdf(grid).sum()
    return float(mass @ (special.expit(SHIFT + spread * grid) - special.expit(spread * grid)))


def simulate(
    setting: Setting, regime: Regime, count: int, random: np.random.Generator
) -> list[Floats]:
    """Return mean scores of both rules per task, as rules x replications x seeds x problems."""
    shared_RS1 = random.standard_normal((count, setting.num_seeds, 1))
    own_2RS1 = random.standard_normal((2, count, setting.num_seeds, 1))
    seed_2RS1 = np.sqrt(regime.c) * shared_RS1 + np.sqrt(1 - regime.c) * own_2RS1
    shift_2111 = np.array([SHIFT, 0.0]).reshape(2, 1, 1, 1)
    scores = []
    for problems, samples in zip(setting.num_problems, setting.num_samples, strict=True):
        odds = shift_2111 + regime.t * seed_2RS1
        odds = odds + DIFFICULTY * random.standard_normal((count, 1, problems))
        odds = odds + regime.r * random.standard_normal((2, count, 1, problems))
        odds = odds + SEED_PROBLEM * random.standard_normal(odds.shape)
        scores.append(random.binomial(samples, special.expit(odds)) / samples)
    return scores


def ours(seeds: str) -> Callable[[list[Floats], np.random.Generator], Interval_R]:
    """Return `eval.stats.paired_interval` of each replication."""

    def run(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
        found = [
            paired_interval([task[0, i] for task in tasks], [task[1, i] for task in tasks], seeds)
            for i in range(tasks[0].shape[1])
        ]
        return np.array([one.low for one in found]), np.array([one.high for one in found])

    return run


def differences(tasks: list[Floats]) -> list[Floats]:
    """Return the first rule minus the second, as replications x seeds x problems per task."""
    return [first - second for first, second in tasks]


def seed_means(tasks: list[Floats]) -> Floats:
    """Return the mean difference of each seed, averaged over tasks."""
    return np.mean([task.mean(axis=-1) for task in differences(tasks)], axis=0)


def t_interval(mean_R: Floats, variance_R: Floats, freedom: Any) -> Interval_R:
    """Return a t interval around means whose variance is estimated."""
    half_R = stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance_R)
    return mean_R - half_R, mean_R + half_R


def over_seeds(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
    """Return the t interval of the seed means; it treats the problems as fixed."""
    mean_RS = seed_means(tasks)
    num_seeds = mean_RS.shape[1]
    return t_interval(mean_RS.mean(1), mean_RS.var(axis=1, ddof=1) / num_seeds, num_seeds - 1)


def problem_parts(tasks: list[Floats]) -> tuple[Floats, Floats]:
    """Return, per task, the variance of the estimate from its problems, and its freedom."""
    parts = [
        task.mean(1).var(axis=1, ddof=1) / task.shape[-1] / len(tasks) ** 2
        for task in differences(tasks)
    ]
    return np.array(parts), np.array([task.shape[-1] - 1.0 for task in tasks])[:, None]


def over_problems(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
    """Return the t interval of the problem means; it pools seeds, as if there were one training."""
    part_TR, freedom_T1 = problem_parts(tasks)
    variance_R = part_TR.sum(0)
    freedom_R = variance_R**2 / (part_TR**2 / freedom_T1).sum(0)
    return t_interval(seed_means(tasks).mean(1), variance_R, freedom_R)


def two_way(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
    """Return the t interval of variance a + b - e (floor as ours); Satterthwaite's freedom or 1."""
    mean_RS = seed_means(tasks)
    num_seeds = mean_RS.shape[1]
    seed_R = mean_RS.var(axis=1, ddof=1) / num_seeds
    part_TR, freedom_T1 = problem_parts(tasks)
    rests = []
    for task in differences(tasks):
        residual = task - task.mean(1, keepdims=True) - task.mean(2, keepdims=True)
        residual = residual + task.mean((1, 2), keepdims=True)
        scale = (num_seeds - 1) * (task.shape[2] - 1) * num_seeds * task.shape[2]
        rests.append((residual**2).sum((1, 2)) / scale / len(tasks) ** 2)
    rest_TR = np.array(rests)
    rest_R = rest_TR.sum(0)
    variance_R = np.maximum(seed_R + part_TR.sum(0) - rest_R, LEAST_VARIANCE * rest_R)
    spread_R = seed_R**2 / (num_seeds - 1) + (part_TR**2 / freedom_T1).sum(0)
    spread_R += (rest_TR**2 / freedom_T1).sum(0) / (num_seeds - 1)
    return t_interval(mean_RS.mean(1), variance_R, np.maximum(variance_R**2 / spread_R, 1.0))


def resampled(number: int, random: np.random.Generator) -> Floats:
    """Return the shares of `number` things in bootstrap samples."""
    return random.multinomial(number, np.full(number, 1 / number), BOOTSTRAPS) / number


def percentiles(mean_RB: Floats) -> Interval_R:
    """Return the percentile interval of bootstrap means."""
    low_R, high_R = np.quantile(mean_RB, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return low_R, high_R


def bootstrap_seeds(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
    """Return the percentile bootstrap interval of the seed means."""
    mean_RS = seed_means(tasks)
    return percentiles(mean_RS @ resampled(mean_RS.shape[1], random).T)


def bootstrap_both(tasks: list[Floats], random: np.random.Generator) -> Interval_R:
    """Return the interval of a bootstrap of seeds, then problems, drawn alike for both rules."""
    share_BS = resampled(tasks[0].shape[2], random)
    mean_RB = np.zeros((tasks[0].shape[1], BOOTSTRAPS))
    for task in differences(tasks):
        mean_RSB = task @ resampled(task.shape[2], random).T
        mean_RB += np.einsum("rsb,bs->rb", mean_RSB, share_BS) / len(tasks)
    return percentiles(mean_RB)


OURS, INDEPENDENT = "paired_interval", "paired_interval, independent seeds"
METHODS = {
    OURS: ours("paired"),
    INDEPENDENT: ours("independent"),
    "bootstrap of seeds": bootstrap_seeds,
    "bootstrap of seeds, then problems": bootstrap_both,
    "t interval over seeds": over_seeds,
    "t interval over problems": over_problems,
    "two-way t interval (Satterthwaite)": two_way,
}


def coverage(setting: Setting, regime: Regime, seeds: list[int]) -> dict[str, dict[str, float]]:
    """Return coverage and mean width of each method; seeds count as independent only if they are.

    Args:
        setting: what is evaluated, and how often.
        regime: of the truth.
        seeds: of the simulation.
    """
    random, true = np.random.default_rng(seeds), truth(regime)
    methods = {name: run for name, run in METHODS.items() if not regime.c or name != INDEPENDENT}
    ends: dict[str, list[Interval_R]] = {name: [] for name in methods}
    for begin in range(0, setting.replications, CHUNK):
        tasks = simulate(setting, regime, min(CHUNK, setting.replications - begin), random)
        for name, run in methods.items():
            ends[name].append(run(tasks, random))
    found = {}
    for name, chunks in ends.items():
        low_R, high_R = (np.concatenate(end) for end in zip(*chunks, strict=True))
        holds_R = (low_R <= true) & (true <= high_R)
        width = float((high_R - low_R).mean())
        found[name] = {"coverage": float(holds_R.mean()), "mean_width": width}
    return found


def measure(settings: tuple[Setting, ...] = SETTINGS) -> dict[str, Any]:
    """Measure every method in every regime of every setting."""
    started, rows = time.monotonic(), []
    for i, setting in enumerate(settings):
        regimes = [
            {
                **regime._asdict(),
                "truth": truth(regime),
                "methods": coverage(setting, regime, [SEED, i, j]),
            }
            for j, regime in enumerate(tqdm(REGIMES, desc=setting.name))
        ]
        error = float(np.sqrt(LEVEL * (1 - LEVEL) / setting.replications))
        rows.append({**setting._asdict(), "monte_carlo_error": error, "regimes": regimes})
    return {
        "level": LEVEL,
        "difficulty": DIFFICULTY,
        "shift": SHIFT,
        "seed_problem": SEED_PROBLEM,
        "bootstraps": BOOTSTRAPS,
        "settings": rows,
        "seconds": round(time.monotonic() - started),
    }


def summary(result: dict[str, Any]) -> list[str]:
    """Return a table: lowest and highest coverage over regimes, and the width beside ours."""
    lines = []
    for name in METHODS:
        cells = []
        for setting in result["settings"]:
            found = [x["methods"] for x in setting["regimes"] if name in x["methods"]]
            covered = [100 * methods[name]["coverage"] for methods in found]
            ratio = median(m[name]["mean_width"] / m[OURS]["mean_width"] for m in found)
            cells.append(f"{min(covered):.1f} to {max(covered):.1f} %; {ratio:.2f}")
        lines.append((name, *cells))
    return markdown_table(("interval", *(x["name"] for x in result["settings"])), lines)


def main() -> None:
    """Measure and write the JSON, or show it as a table."""
    parser = command_parser("benchmarks.interval_coverage", __doc__)
    parser.add_argument("part", choices=["measure", "table"])
    add_into(parser, "coverage")
    given = parser.parse_args()
    if given.part == "measure":
        result = {**measure(), "seed": SEED, **provenance("benchmarks.interval_coverage")}
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {RESULT}")
    with errors_reported():
        show_table(summary(json.loads(RESULT.read_text())), "coverage", given.into)


if __name__ == "__main__":
    main()
