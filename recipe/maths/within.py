"""Compare each value with those of its group, or of any other bucket.

Axes: `_N` responses, `_P` buckets, numbered from 0.
"""

import torch
from torch import Tensor


def mean_within(value_N: Tensor, bucket_N: Tensor) -> Tensor:
    """Return for each response the mean of `value_N` over the responses of its bucket."""
    count_P = torch.bincount(bucket_N)
    total_P = torch.zeros(len(count_P), dtype=torch.double)
    total_P = total_P.scatter_add(0, bucket_N, value_N.double())
    return (total_P / count_P)[bucket_N]


def varies_within(value_N: Tensor, bucket_N: Tensor) -> Tensor:
    """Return whether the values of each response's bucket differ, (N,) bool."""
    highest, lowest = (
        torch.zeros(int(bucket_N.max()) + 1, dtype=value_N.dtype).scatter_reduce(
            0, bucket_N, value_N, how, include_self=False
        )
        for how in ("amax", "amin")
    )
    return (highest > lowest)[bucket_N]


def centred_within(value_N: Tensor, bucket_N: Tensor) -> Tensor:
    """Return value - mean of its bucket; exactly 0 where all values are equal."""
    value_N = value_N.double()
    # The mean of equal numbers is rounded.
    return (value_N - mean_within(value_N, bucket_N)).where(varies_within(value_N, bucket_N), 0.0)


def centred_by_weight(value_N: Tensor, weight_N: Tensor, bucket_N: Tensor) -> Tensor:
    """Return value - weighted mean of its bucket; exactly 0 where all values are equal.

    The mean of a bucket without weight is taken for 0.
    """
    value_N, mean_N = value_N.double(), mean_within(weight_N, bucket_N)
    mean_N = mean_within(weight_N * value_N, bucket_N) / mean_N.where(mean_N > 0, 1.0)
    return (value_N - mean_N).where(varies_within(value_N, bucket_N), 0.0)


def normalised_within(value_N: Tensor, bucket_N: Tensor, epsilon: float) -> Tensor:
    """Return (value - mean) / (std + epsilon) of each bucket; 0 where all values are equal.

    The standard deviation is over one less than the number of values.
    """
    centred_N = centred_within(value_N, bucket_N)
    count_P = torch.bincount(bucket_N)
    square_P = torch.bincount(bucket_N, weights=centred_N.square())
    std_P = (square_P / (count_P - 1).clamp(min=1)).sqrt()
    return centred_N / (std_P[bucket_N] + epsilon)
