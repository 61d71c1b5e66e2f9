"""Measure the seconds of a call, and a median with its interval."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SEED = 0


def seconds(run: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def median_with_interval(values: list[float]) -> dict[str, float]:
    """Return the median and its 95 % interval."""
    sample = np.random.default_rng(SEED).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(sample, axis=1), [0.025, 0.975])
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}
