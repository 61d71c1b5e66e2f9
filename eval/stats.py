"""Compute the statistics of an evaluation: scores of k samples, and intervals of differences.

Axes: `_P` problems, `_S` training seeds, `_K` samples of one problem, `_N` anything.

`paired_interval` is the method of every comparison in this project. A score is taken as

    value_sp = mean + seed_s + problem_p + rest_sp

with all three random: other seeds and problems of the same kind are equally valid.
Then the variance of the grand mean is a + b - e, where a, b and e are the mean squares of seeds,
problems and rest over S * P. With three seeds, a has only two degrees of freedom. The interval
takes this into account.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from recipe.tasks.at_k import Floats, maj_at_k, mean_at_k, pass_at_k, standard_error

__all__ = [
    "Interval",
    "holm",
    "maj_at_k",
    "mean_at_k",
    "mean_interval",
    "paired_interval",
    "pass_at_k",
    "standard_error",
    "variances",
]

# Quantiles at which each of the two variances is taken, dense in both tails: with two seeds or two
# problems a 99.9 % interval is still right to 0.1 % of its width.
QUANTILES = special.expit(np.linspace(-15, 15, 48))
# The true variance is at least e. Its estimate a + b - e is held above this part of e.
LEAST_VARIANCE = 0.5


class Interval(NamedTuple):
    """An estimate with its interval."""

    estimate: float
    low: float
    high: float
    probability_positive: float
    """Probability that the true value is above 0. For a difference this is P(better)."""
    p_value: float
    """Two-sided p value of a true value of 0."""
    num_seeds: int
    """With 1, the interval is over problems alone and says nothing about training noise."""


def mean_interval(score: ArrayLike | Sequence[ArrayLike], level: float = 0.95) -> Interval:
    """Return a mean over seeds and problems with its interval (`paired_interval`).

    Args:
        score: seeds x problems; or a sequence of such, one per task, whose means are averaged.
        level: probability that the interval covers the truth.
    """
    tasks = as_tasks(score)
    return _interval(*variances(tasks), tasks, level)


def paired_interval(
    first: ArrayLike | Sequence[ArrayLike],
    second: ArrayLike | Sequence[ArrayLike],
    seeds: Literal["paired", "independent"] = "paired",
    level: float = 0.95,
) -> Interval:
    """Return the mean of `first` minus that of `second` on the same problems, over few seeds.

    Values are in rows by seed and columns by problem, each the mean over the problem's samples.
    Both factors are random and crossed; the mean squares of seeds (a, S - 1 degrees of freedom),
    problems (b, P - 1) and rest (e) of the differences are scaled so that the estimate has variance
    a + b - e. Given the data, the difference is then normal around its estimate with variance

        max(A + B - e, e / 2)     A = a (S - 1) / chi2_{S-1}     B = b (P - 1) / chi2_{P-1}

    mixed over both chi squares with weight sqrt(1/A + 1/B). Without the weight this is the
    generalised (fiducial) interval, too wide where two variances are alike, as in the
    Behrens-Fisher problem; the weight keeps the t interval where one of them rules and lightens the
    tail of the other. The weight and the floor are ours, chosen on a grid of variances;
    `benchmarks/interval_coverage.py` measures the coverage of this and of the usual intervals.

    Args:
        first: seeds x problems; or a sequence of such, one per task. Tasks are not random, and each
            has the same weight however many problems it has.
        second: the same of what it is compared with.
        seeds: whether row s of both is the same seed; independent seeds may differ in number.
        level: probability that the interval covers the truth.

    Raises:
        ValueError: the arrays do not fit, have fewer than two problems, or hold a value that is not
            a number; or the level is not between 0 and 1.
    """
    ones, others = as_tasks(first), as_tasks(second)
    problems = [[task.shape[1] for task in tasks] for tasks in (ones, others)]
    if problems[0] != problems[1]:
        raise ValueError(
            f"the problems differ: {problems[0]} of the first, {problems[1]} of the "
            f"second. Only the same problems can be compared."
        )
    if seeds == "paired":
        if len(ones[0]) != len(others[0]):
            raise ValueError(
                f"{len(ones[0])} seeds of the first cannot be paired with "
                f"{len(others[0])}; give seeds='independent'."
            )
        differences = [one - other for one, other in zip(ones, others, strict=True)]
        return _interval(*variances(differences), differences, level)
    parts = [variances(tasks) for tasks in (ones, others)]
    means = [one.mean(0) - other.mean(0) for one, other in zip(ones, others, strict=True)]
    rows = [mean[None] for mean in means]
    seed = _sum([part[0] for part in parts])
    rest = sum(part[2] for part in parts)
    found = _interval(seed, variances(rows)[1], rest, rows, level)
    return found._replace(num_seeds=min(len(ones[0]), len(others[0])))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979).

    By chance, some adjusted value is below x in at most x of cases.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


class Variance(NamedTuple):
    """Hold a part of the variance of an estimate, and its degrees of freedom."""

    value: float
    freedom: float


def as_tasks(score: Any) -> list[Floats]:
    """Return one array of seeds x problems per task.

    Raises:
        ValueError: their shapes do not fit together, or a value is not a number.
    """
    single = len(score) > 0 and np.ndim(score[0]) == 1
    tasks = [np.asarray(task, float) for task in ([score] if single else score)]
    shapes = [task.shape for task in tasks]
    if not tasks or any(len(shape) != 2 or shape[0] < 1 or shape[1] < 2 for shape in shapes):
        raise ValueError(f"scores must be seeds x problems, two problems at least; found {shapes}")
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"the tasks have different numbers of seeds: {[s[0] for s in shapes]}")
    if not all(np.isfinite(task).all() for task in tasks):
        raise ValueError("a score is not a number; every problem needs one under every seed")
    return tasks


def variances(tasks: list[Floats]) -> tuple[Variance, Variance, float]:
    """Return the mean squares of seeds, problems and rest, scaled to the variance of the mean."""
    num_seeds, parts = len(tasks[0]), len(tasks) ** 2
    seed_S = np.mean([task.mean(1) for task in tasks], axis=0)
    seed = Variance(float(seed_S.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0, num_seeds - 1)
    problem = _sum(
        [
            Variance(float(task.mean(0).var(ddof=1)) / task.shape[1] / parts, task.shape[1] - 1)
            for task in tasks
        ]
    )
    rest = 0.0
    for task in tasks if num_seeds > 1 else ():
        residual = task - task.mean(0) - task.mean(1, keepdims=True) + task.mean()
        freedom = (num_seeds - 1) * (task.shape[1] - 1)
        rest += float((residual**2).sum()) / freedom / task.size / parts
    return seed, problem, rest


def _sum(variances: list[Variance]) -> Variance:
    """Add independent variances, with the degrees of freedom of Satterthwaite (1946)."""
    total = sum(part.value for part in variances)
    if total == 0:
        return Variance(0.0, min(part.freedom for part in variances))
    shares = [(part.value / total) ** 2 / part.freedom for part in variances if part.value]
    return Variance(total, 1 / sum(shares))


def _interval(
    seed: Variance, problem: Variance, rest: float, tasks: list[Floats], level: float
) -> Interval:
    """Return the interval around the mean over tasks, from the parts of its variance."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval is {level}; it lies between 0 and 1")
    estimate = float(np.mean([task.mean() for task in tasks]))
    seed_A, problem_B = _at_quantiles(seed)[:, None], _at_quantiles(problem)[None]
    variance_AB = np.maximum(seed_A + problem_B - rest, LEAST_VARIANCE * rest)
    # The quantiles are evenly spaced in log odds, so each stands for this much probability.
    density = QUANTILES * (1 - QUANTILES)
    weight_AB = np.outer(density, density)
    if seed.value and problem.value:
        weight_AB = weight_AB * np.sqrt(1 / seed_A + 1 / problem_B)
    weight_AB = weight_AB / weight_AB.sum()
    deviation_AB = np.sqrt(variance_AB)
    if not deviation_AB.any():
        sign = float(np.sign(estimate))
        return Interval(estimate, estimate, estimate, (1 + sign) / 2, 1 - abs(sign), len(tasks[0]))

    def below(distance: float) -> float:
        """Return the probability that the truth is below the estimate plus this distance."""
        return min(1.0, float((weight_AB * special.ndtr(distance / deviation_AB)).sum()))

    widest = float(np.median(deviation_AB))
    while below(widest) < (1 + level) / 2:
        widest *= 2
    found = optimize.brentq(lambda x: below(x) - (1 + level) / 2, 0.0, widest, xtol=1e-12)
    half = cast("float", found)
    return Interval(
        estimate,
        estimate - half,
        estimate + half,
        below(estimate),
        2 * below(-abs(estimate)),
        len(tasks[0]),
    )


def _at_quantiles(variance: Variance) -> Floats:
    """Return possible values of the true variance, at QUANTILES of the chi square."""
    if variance.value == 0:
        return np.zeros_like(QUANTILES)
    return variance.value * variance.freedom / stats.chi2.ppf(QUANTILES, variance.freedom)
