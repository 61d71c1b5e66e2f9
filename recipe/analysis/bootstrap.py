"""Draw groups anew for intervals. Axes: `_P` groups, `_K` sums, `_B` bootstrap replicates."""

from typing import NamedTuple

import numpy as np
import torch

REPLICATES = 1000
LEVEL = 0.95
# Doubles drawn at once: keeps the memory of a resample small however many groups there are.
DRAWN_AT_ONCE = 1 << 22


class Estimate(NamedTuple):
    """Hold a value and the ends of its interval; NaN where undefined."""

    value: float
    low: float
    high: float


def resample(
    table_PK: np.ndarray, random: np.random.Generator, replicates: int = REPLICATES
) -> np.ndarray:
    """Return sums total_BK over P groups drawn with replacement, `replicates` times."""
    num_groups, table = len(table_PK), torch.from_numpy(table_PK)
    at_once = max(1, min(replicates, DRAWN_AT_ONCE // num_groups))
    totals = []
    for begin in range(0, replicates, at_once):
        rows = min(at_once, replicates - begin)
        drawn = random.integers(num_groups, size=(rows, num_groups))
        drawn += num_groups * np.arange(rows)[:, None]
        count = np.bincount(drawn.ravel(), minlength=rows * num_groups)
        totals.append(torch.from_numpy(count).view(rows, num_groups).double() @ table)
    return torch.cat(totals).numpy()


def interval(value_B: np.ndarray) -> tuple[float, float]:
    """Return percentiles of the replicates in which the statistic is defined."""
    value_B = np.sort(value_B[~np.isnan(value_B)])
    if not len(value_B):
        return np.nan, np.nan
    cut = round((1 - LEVEL) / 2 * (len(value_B) - 1))
    return float(value_B[cut]), float(value_B[-1 - cut])
