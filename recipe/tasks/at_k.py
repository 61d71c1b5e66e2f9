"""Score k samples of a problem (mean@k, pass@k, maj@k), and the standard error of a mean."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def mean_at_k(score_PK: ArrayLike) -> float:
    """Return the mean score of k samples of each problem, averaged over problems.

    Raises:
        ValueError: the array is not problems x samples, or empty.
    """
    scores = np.asarray(score_PK, float)
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"mean@k takes problems x samples, not an array of shape {scores.shape}")
    return float(scores.mean(axis=1).mean())


def pass_at_k(num_correct_P: ArrayLike, num_samples: int, k: int) -> Floats:
    """Return, for each problem, the probability that one or more of k samples are correct.

    The unbiased estimate is 1 - C(n - c, k) / C(n, k) for c of n correct samples
    (arXiv:2107.03374, eq. 1).

    Raises:
        ValueError: k is not in 1 to n, or the counts are not whole numbers from 0 to n.
    """
    check_k(k, num_samples)
    correct = np.asarray(num_correct_P, int)
    if (correct != np.asarray(num_correct_P)).any():
        raise ValueError(f"pass@k takes how many samples are correct, not a share: {num_correct_P}")
    if correct.size and not 0 <= correct.min() <= correct.max() <= num_samples:
        raise ValueError(f"{correct.min()} to {correct.max()} of {num_samples} samples are correct")
    choices = math.comb(num_samples, k)
    by_count = np.array(
        [1 - math.comb(num_samples - c, k) / choices for c in range(num_samples + 1)]
    )
    return by_count[correct]


def maj_at_k(class_K: Sequence[int | None], correct_class: int | None, k: int) -> float:
    """Return the probability that the most frequent answer of k samples of a problem is correct.

    The value is exact over all choices of k of the n samples. A tie of m answers counts 1 / m. A
    sample without an answer does not vote. If no sample votes, the result is incorrect.

    Args:
        class_K: the class of equivalent answers of each sample, None without an answer.
        correct_class: the class of the correct answer, None if no sample has it.
        k: samples that vote.

    Raises:
        ValueError: k is not in 1 to n.
    """
    num_samples = len(class_K)
    check_k(k, num_samples)
    silent = sum(one is None for one in class_K)
    counts = {one: class_K.count(one) for one in set(class_K) - {None}}
    if correct_class not in counts:
        return 0.0
    others = [count for one, count in counts.items() if one != correct_class]
    favourable = 0.0
    for votes in range(1, min(k, counts[correct_class]) + 1):
        # ways[drawn][ties]: choices of `drawn` samples of the others, none above `votes`, and the
        # number of classes that reach it.
        ways = {(drawn, 0): math.comb(silent, drawn) for drawn in range(min(silent, k - votes) + 1)}
        for count in others:
            more: dict[tuple[int, int], int] = {}
            for (drawn, ties), number in ways.items():
                for extra in range(min(count, votes, k - votes - drawn) + 1):
                    key = drawn + extra, ties + (extra == votes)
                    more[key] = more.get(key, 0) + number * math.comb(count, extra)
            ways = more
        chosen = math.comb(counts[correct_class], votes)
        favourable += sum(
            chosen * number / (ties + 1)
            for (drawn, ties), number in ways.items()
            if drawn == k - votes
        )
    return favourable / math.comb(num_samples, k)


def check_k(k: int, num_samples: int) -> None:
    """Refuse a k that is larger than the number of samples.

    Raises:
        ValueError: k is not in 1 to n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}, but there are {num_samples} samples; k may be 1 to that.")


def standard_error(value_N: ArrayLike, cluster_N: ArrayLike | None = None) -> float:
    """Return the standard error of a mean whose terms are correlated within clusters.

    The variance is the sum of squared cluster sums of deviations (arXiv:2411.00640, section 2.2)
    times G / (G - 1) for G clusters, over the squared number of terms. Without clusters this is the
    standard deviation (n - 1) over the root of n. The result is NaN for a single cluster.

    Args:
        value_N: for example a score of each sample.
        cluster_N: for example the problem of each sample; None if all terms are independent.
    """
    values = np.asarray(value_N, float)
    clusters = np.arange(len(values)) if cluster_N is None else np.asarray(cluster_N)
    number_N = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(number_N, weights=values - values.mean())
    if len(sums) < 2:
        return math.nan
    return math.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values)
