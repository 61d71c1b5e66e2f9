"""Say how many seeds and problems a comparison needs to see a difference.

    python -m eval.power --difference 0.3 --problems 1500 --seed-sd 1.0 --problem-sd 20 --rest-sd 30
    python -m eval.power --difference 0.3 --like outputs/study/results.jsonl ARM BASELINE

The model is that of `paired_interval`: the difference of two methods on a problem under a seed is

    true difference + seed_s + problem_p + rest_sp

with all three random. Everything is in points (percent of the scale from 0 to 1). `--like` takes
the standard deviations from the results of a study, as root mean squares over its cells. A single
cell has few seeds, and one that was chosen because its interval is narrow has too small ones.
"""

import argparse
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eval.stats import variances
from eval.study_results import by_problem, read_results
from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.tables import markdown_table

MOST_SEEDS = 10_000
SEEDS_SHOWN = (2, 3, 5, 8, 16, 32, 64)


class Spread(NamedTuple):
    """Hold the standard deviations of a difference between two methods."""

    seed: float
    """Measure the mean difference under one seed, over infinitely many problems."""
    problem: float
    """Measure a problem's difference, over infinitely many seeds."""
    rest: float
    """Measure what is left: sampling, and problems that one seed changes and another does not."""

    def standard_error(self, num_seeds: int, num_problems: int) -> float:
        """Return the standard error of the mean difference."""
        parts = self._parts(num_seeds, num_problems)
        return sqrt(parts[0] + parts[1] - parts[2])

    def freedom(self, num_seeds: int, num_problems: int) -> float:
        """Return the degrees of freedom of that error's estimate, by Satterthwaite (1946)."""
        seed, problem, rest = self._parts(num_seeds, num_problems)
        both = (num_seeds - 1) * (num_problems - 1)
        uncertain = seed**2 / (num_seeds - 1) + problem**2 / (num_problems - 1) + rest**2 / both
        total = seed + problem - rest
        return total**2 / uncertain if uncertain else float(both)

    def _parts(self, num_seeds: int, num_problems: int) -> tuple[float, float, float]:
        """Return the expected mean squares of seeds, problems and rest, over their numbers."""
        rest = self.rest**2 / (num_seeds * num_problems)
        return self.seed**2 / num_seeds + rest, self.problem**2 / num_problems + rest, rest


def spread_of(first: ArrayLike, second: ArrayLike) -> Spread:
    """Estimate the standard deviations from two methods on the same seeds and problems.

    Args:
        first: seeds x problems.
        second: the same of the other method.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    num_seeds, num_problems = difference.shape
    seed, problem, rest = variances([difference])
    return Spread(
        sqrt(max(0.0, (seed.value - rest) * num_seeds)),
        sqrt(max(0.0, (problem.value - rest) * num_problems)),
        sqrt(rest * num_seeds * num_problems),
    )


def power(
    difference: float, spread: Spread, num_seeds: int, num_problems: int, level: float = 0.95
) -> float:
    """Return the probability that an interval of this level does not hold 0.

    The estimate over its estimated error is taken as a noncentral t.

    Args:
        difference: the true difference.
        spread: in the same unit.
        num_seeds: paired training seeds, at least 2.
        num_problems: at least 2.
        level: of the interval.

    Raises:
        ValueError: there are fewer than two seeds or problems.
    """
    if min(num_seeds, num_problems) < 2:
        raise ValueError(f"{num_seeds} seeds and {num_problems} problems; both must be 2 or more")
    error = spread.standard_error(num_seeds, num_problems)
    if error == 0:
        return float(difference != 0)
    freedom = spread.freedom(num_seeds, num_problems)
    bound, shift = stats.t.ppf((1 + level) / 2, freedom), abs(difference) / error
    upper = stats.nct.sf(bound, freedom, shift)
    lower = stats.nct.cdf(-bound, freedom, shift)
    # Far in the tail scipy gives nan for what is 0.
    return float(upper + (0.0 if np.isnan(lower) else lower))


def seeds_needed(
    difference: float,
    spread: Spread,
    num_problems: int,
    wanted: float = 0.8,
    level: float = 0.95,
) -> int | None:
    """Return the smallest number of paired seeds with this power; None if no number has it.

    More seeds do not help against the differences between problems.
    """

    def enough(num_seeds: int) -> bool:
        return power(difference, spread, num_seeds, num_problems, level) >= wanted

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def report(
    difference: float, spread: Spread, num_problems: int, wanted: float, level: float
) -> list[str]:
    """Return the power of some numbers of seeds, and the number that is needed."""
    table = [
        (
            str(seeds),
            f"{spread.standard_error(seeds, num_problems):.2f}",
            f"{power(difference, spread, seeds, num_problems, level):.0%}",
        )
        for seeds in SEEDS_SHOWN
    ]
    needed = seeds_needed(difference, spread, num_problems, wanted, level)
    lines = [
        f"Standard deviations of the difference in points: {spread.seed:.2f} between seeds, "
        f"{spread.problem:.2f} between problems, {spread.rest:.2f} rest.",
        "",
        *markdown_table(("seeds", "standard error", "power"), table),
        "",
    ]
    if needed is None:
        least = spread.problem / sqrt(num_problems)
        return [
            *lines,
            f"**No number of seeds is enough** to see {difference:g} points on {num_problems} "
            f"problems with a power of {wanted:.0%}: the problems alone leave a standard error of "
            f"{least:.2f} points. Take more problems.",
        ]
    return [
        *lines,
        f"**{needed} paired seeds** see {difference:g} points on {num_problems} problems with a "
        f"power of {wanted:.0%}.",
    ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("eval.power", __doc__)
    add = command.add_argument
    add("--difference", type=float, required=True, help="to be seen, in points")
    add("--power", type=float, default=0.8, help="wanted probability to see it (0.8)")
    add("--level", type=float, default=0.95, help="of the interval (0.95)")
    add("--problems", type=int, help="held-out problems (with --like: those of the results)")
    add("--seed-sd", type=float, help="standard deviation between seeds, in points")
    add("--problem-sd", type=float, help="between problems, in points")
    add("--rest-sd", type=float, help="of the rest, in points")
    add("--like", nargs=3, metavar=("RESULTS", "ARM", "BASELINE"), help="results of a study")
    add("--cells", nargs="+", metavar="CELL", help="of that study (all)")
    return command


def spread_like(
    results: str, arm: str, baseline: str, cells: Sequence[str] = ()
) -> tuple[Spread, int]:
    """Return the spread between two arms of a study's results, in points, and the problems.

    Over several cells it is the root mean square of theirs.

    Args:
        results: of a study.
        arm: name of an arm.
        baseline: name of another.
        cells: of the study; by default all.

    Raises:
        UserError: the results lack a cell or an arm, cells have different numbers of problems, or
            fewer than two seeds have both arms.
    """
    rows = read_results(Path(results))
    spreads, sizes = [], set()
    for cell in cells or dict.fromkeys(str(row["cell"]) for row in rows):
        found = by_problem(rows, cell)
        for wanted in (arm, baseline):
            if wanted not in found:
                has = ", ".join(found) or "no arms"
                raise UserError(f"{results} has no arm {wanted} in {cell}. It has {has}.")
        seeds = sorted(found[arm].keys() & found[baseline].keys())
        if len(seeds) < 2:
            raise UserError(
                f"{results} has {len(seeds)} seeds of both {arm} and {baseline} in {cell}, and 2 "
                f"are needed."
            )
        first, second = (np.array([found[one][seed] for seed in seeds]) for one in (arm, baseline))
        spreads.append(spread_of(first, second))
        sizes.add(first.shape[1])
    if len(sizes) > 1:
        numbers = ", ".join(map(str, sorted(sizes)))
        raise UserError(
            f"the cells of {results} have {numbers} problems. Choose cells with as many (--cells)."
        )
    return Spread(*(100 * np.sqrt(np.mean(np.square(spreads), axis=0)))), sizes.pop()


def main(words: Sequence[str] | None = None) -> None:
    """Run the command, and report errors in one paragraph."""
    given = parser().parse_args(words)
    with errors_reported():
        given_sds = (given.seed_sd, given.problem_sd, given.rest_sd)
        problems = given.problems
        if given.like:
            results, arm, baseline = given.like
            spread, measured = spread_like(results, arm, baseline, given.cells or ())
            problems = problems or measured
        elif None in given_sds or not problems:
            raise UserError(
                "the spread is not known: give --problems, --seed-sd, --problem-sd and --rest-sd, "
                "or --like RESULTS ARM BASELINE."
            )
        else:
            spread = Spread(*given_sds)
        if problems < 2 or not given.difference or not 0 < given.power < 1:
            raise UserError(
                f"--problems is {problems}, --difference {given.difference:g} and --power "
                f"{given.power:g}. Give 2 or more problems, a difference that is not 0, and a "
                f"power between 0 and 1."
            )
        lines = report(given.difference, spread, problems, given.power, given.level)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
