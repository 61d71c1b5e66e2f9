"""Turn verl's columns, which are nested over tokens, into one number per response."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor


def offsets(column_NT: Tensor) -> Tensor:
    """Return where each response of a nested column begins, and the end, (N + 1,)."""
    # torch does not declare the methods of nested tensors.
    return column_NT.offsets()  # pyright: ignore[reportAttributeAccessIssue]


def per_response(mask_NT: Tensor, advantage_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Return length and advantage of each response from nested token columns, without padding.

    Returns:
        length_N, the trained tokens; advantage_N, 0 where there are none.
    """
    begin_N, end_N = offsets(mask_NT)[:-1], offsets(mask_NT)[1:]
    trained_T = mask_NT.values().cumsum(0, dtype=torch.long)
    before_N, until_N = (trained_T[(x - 1).clamp(min=0)].where(x > 0, 0) for x in (begin_N, end_N))
    first_N = torch.searchsorted(trained_T, before_N + 1).clamp(max=len(trained_T) - 1)
    length_N = until_N - before_N
    return length_N, advantage_NT.values()[first_N].double().where(length_N > 0, 0.0)


def spread(value_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Spread a number per response over its trained tokens, as a nested column; 0 elsewhere."""
    rows = [value * mask for value, mask in zip(value_N.float(), mask_NT.unbind(), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def row_sums(value_NT: Tensor) -> Tensor:
    """Return the sum over the tokens of each response of a nested column."""
    return torch.segment_reduce(value_NT.values(), "sum", lengths=offsets(value_NT).diff())


def final_rows(keys: list[str]) -> Tensor:
    """Return for each response the row of its sample's last output.

    In single-turn rollouts that is the row itself.

    An agent loop may return several outputs a sample, all with the reward of the last one; verl
    builds their keys as PROMPT_SAMPLE_OUTPUT.
    """
    last: dict[str, tuple[int, int]] = {}
    samples = [key.rpartition("_") for key in keys]
    for row, (sample, _, output) in enumerate(samples):
        last[sample] = max(last.get(sample, (-1, row)), (int(output), row))
    return torch.tensor([last[sample][1] for sample, _, _ in samples])


def prompt_of(key: str) -> str:
    """Return the prompt's id from a response's key, which verl builds as PROMPT_SAMPLE_OUTPUT."""
    return key.rsplit("_", 2)[0]


def group_numbers(uids: Sequence[Hashable]) -> Tensor:
    """Number the distinct uids from 0 in order of appearance."""
    number: dict[Hashable, int] = defaultdict(count().__next__)
    return torch.from_numpy(np.fromiter(map(number.__getitem__, uids), np.int64, len(uids)))
