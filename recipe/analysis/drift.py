"""Compute how lengths changed over a run, and which sign changed them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recipe.analysis.bootstrap import Estimate, interval, resample

SIGNS = ("positive", "negative", "zero")


class Drift(NamedTuple):
    """Hold how the mean length changed from the first half of the steps to the second."""

    first: tuple[int, int]
    """Name the first and the last step of the first half."""
    last: tuple[int, int]
    """Name those of the second half. With an odd number of steps, the middle one is in neither."""
    num_groups: int
    """Count the groups of the half that has fewer."""
    found: dict[str, Estimate]
    """Hold what `changes` returns."""


def changes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the mean lengths of two sets of groups, and what their difference is made of.

    The change of the mean is the sum over signs of (mean share of the sign) * (change of its
    length) and (mean length of the sign) * (change of its share).

    Args:
        before: `count/SIGN` and `tokens/SIGN` of the earlier groups, of any shape.
        after: the same of the later ones.

    Returns:
        before, after: the mean lengths.
        change: after - before.
        length/SIGN: change of the mean length of a sign; NaN if one set has no such response.
        part/SIGN: what that adds to `change`.
        part/mix: what the changed shares of the signs add.
    """
    halves = (before, after)
    with np.errstate(divide="ignore", invalid="ignore"):
        totals = [total(half, "count") for half in halves]
        found = {
            name: total(half, "tokens") / count
            for name, half, count in zip(("before", "after"), halves, totals, strict=True)
        }
        found["change"] = found["after"] - found["before"]
        found["part/mix"] = 0 * found["change"]
        for sign in SIGNS:
            old, new = (half[f"tokens/{sign}"] / half[f"count/{sign}"] for half in halves)
            found[f"length/{sign}"] = new - old
            # A sign that one half lacks has the other's length: only its share changed.
            old, new = np.where(np.isnan(old), new, old), np.where(np.isnan(new), old, new)
            low, high = (half[f"count/{sign}"] / n for half, n in zip(halves, totals, strict=True))
            found[f"part/{sign}"] = np.nan_to_num((low + high) / 2 * (new - old))
            found["part/mix"] = found["part/mix"] + np.nan_to_num((old + new) / 2 * (high - low))
    return found


def total(sums: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    """Return a count or the tokens of all signs."""
    return np.sum([sums[f"{kind}/{sign}"] for sign in SIGNS], axis=0)


def drift(
    tables: Mapping[int, Mapping[str, np.ndarray]], random: np.random.Generator
) -> Drift | None:
    """Return how lengths changed over the steps, with intervals; None if there is one step.

    Args:
        tables: of each step in their order, from `group_sums`.
        random: what draws the groups, of each half on its own.
    """
    steps = list(tables)
    if len(steps) < 2:
        return None
    half = len(steps) // 2
    keys = [f"{kind}/{sign}" for kind in ("count", "tokens") for sign in SIGNS]
    sides = steps[:half], steps[-half:]
    halves = [
        np.stack([np.concatenate([tables[s][key] for s in side]) for key in keys], axis=-1)
        for side in sides
    ]

    def of(totals: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        before, after = (dict(zip(keys, np.moveaxis(x, -1, 0), strict=True)) for x in totals)
        return changes(before, after)

    value, drawn = of([x.sum(0) for x in halves]), of([resample(x, random) for x in halves])
    return Drift(
        first=(sides[0][0], sides[0][-1]),
        last=(sides[1][0], sides[1][-1]),
        num_groups=min(map(len, halves)),
        found={key: Estimate(float(x), *interval(drawn[key])) for key, x in value.items()},
    )
