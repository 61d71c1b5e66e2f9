"""Put the results of one probe under several seeds together."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from recipe.base.errors import UserError
from recipe.estimator.judge import LEVEL

FEWEST = 3


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds from which no interval follows.

    Raises:
        UserError: there are two of them, or one stands there twice.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seed is {' '.join(map(str, seeds))}. Give each seed once.")
    if 1 < len(seeds) < FEWEST:
        raise UserError(
            f"--seed has {len(seeds)} seeds, and an interval over so few says nothing. Give one, "
            f"whose interval is over its prompts, or at least {FEWEST}."
        )


def interval(values: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval, by Student's t.

    Args:
        values: at least two.
        comparisons: how many such intervals are to hold together (Bonferroni).
    """
    tail = (1 - LEVEL) / 2 / comparisons
    half = float(student.ppf(1 - tail, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values), half


def defined_interval(
    values: Sequence[float | None], comparisons: int = 1
) -> tuple[float | None, float | None]:
    """Return `interval`; None twice if one of the values is None."""
    known = [value for value in values if value is not None]
    return interval(known, comparisons) if len(known) == len(values) else (None, None)


def pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one result of several seeds, in the form that `judge` gives one seed's.

    Values are means, and intervals are over seeds.
    """
    first = results[0]
    comparisons = max(len(first["rules"]) - 1, 1)

    def of(name: str, key: str) -> Any:
        found = [result["rules"][name][key] for result in results]
        if not isinstance(found[0], dict):
            return fmean(found)
        value, half = defined_interval([one["value"] for one in found])
        differences = [one["difference"] for one in found]
        difference, alone = defined_interval(differences)
        return {
            "value": value,
            "half_width": half,
            "difference": difference,
            "difference_half_width": alone,
            "difference_half_width_together": defined_interval(differences, comparisons)[1],
        }

    def mean(name: str) -> float | None:
        found = [result[name] for result in results]
        return None if None in found else fmean(found)

    return {
        "options": {**first["options"], "seed": [one["options"]["seed"] for one in results]},
        **{name: mean(name) for name in ("correct", "length", "length_gap", "length_variation")},
        "num_mixed": sum(one["num_mixed"] for one in results),
        "rise": first["rise"],
        "sketch_error": first["sketch_error"],
        "rules": {
            name: {key: of(name, key) for key in found} for name, found in first["rules"].items()
        },
    }
