"""Compute group-relative advantages as verl does. Axes: `_N` rows, `_S` samples."""

import numpy as np

EPSILON = 1e-6
ESTIMATORS = {
    "grpo": "(score - group mean) / group standard deviation",
    "dr_grpo": "score - group mean",
}


def group_advantages(
    score_N: np.ndarray,
    group_N: np.ndarray,
    sample_N: np.ndarray,
    output_N: np.ndarray,
    estimator: str = "grpo",
) -> np.ndarray:
    """Return the advantage of each row.

    As in verl 0.9.1, a sample of several outputs has the score of its last one and all its rows
    its advantage; the standard deviation is over G - 1; and a group of one has its score as
    advantage. Equal scores have advantage exactly 0, where rounding leaves verl a trace.

    Args:
        score_N: one score per row.
        group_N: number of its group.
        sample_N: number of its sample within the group.
        output_N: place among the outputs of the sample.
        estimator: a name in `ESTIMATORS`; verl's `norm_adv_by_std_in_grpo` is on under `grpo`.
    """
    order = np.lexsort((output_N, sample_N, group_N))
    group, sample = group_N[order], sample_N[order]
    is_last = np.append((np.diff(group) != 0) | (np.diff(sample) != 0), True)
    score_S, group_S = score_N[order][is_last], group[is_last]

    begin = np.flatnonzero(np.append(True, np.diff(group_S) != 0))
    count = np.diff(np.append(begin, len(group_S)))
    low, high = np.minimum.reduceat(score_S, begin), np.maximum.reduceat(score_S, begin)
    mean = np.where(count > 1, np.add.reduceat(score_S, begin) / count, 0.0)
    deviation_S = np.where(
        np.repeat((low == high) & (count > 1), count), 0.0, score_S - np.repeat(mean, count)
    )
    if estimator == "grpo":
        square = np.add.reduceat(deviation_S**2, begin)
        std = np.where(count > 1, np.sqrt(square / np.maximum(count - 1, 1)), 1.0)
        deviation_S /= np.repeat(std, count) + EPSILON

    advantage_N = np.empty_like(deviation_S, shape=len(score_N))
    sample_of_row = np.cumsum(is_last) - is_last
    advantage_N[order] = deviation_S[sample_of_row]
    return advantage_N
