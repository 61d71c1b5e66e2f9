"""From verl's columns, nested over tokens, to one number per response."""

from collections import defaultdict
from itertools import count

import numpy as np
import torch
from torch import Tensor


def per_response(mask_NT: Tensor, advantage_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Length and advantage of each response, from nested token columns, without padding them.

    Returns:
        length_N, the trained tokens; advantage_N, 0 where there are none.
    """
    begin_N, end_N = mask_NT.offsets()[:-1], mask_NT.offsets()[1:]
    trained_T = mask_NT.values().cumsum(0, dtype=torch.long)
    before_N, until_N = (trained_T[(x - 1).clamp(min=0)].where(x > 0, 0) for x in (begin_N, end_N))
    first_N = torch.searchsorted(trained_T, before_N + 1).clamp(max=len(trained_T) - 1)
    length_N = until_N - before_N
    return length_N, advantage_NT.values()[first_N].double().where(length_N > 0, 0.0)


def spread(value_N: Tensor, mask_NT: Tensor) -> Tensor:
    """A number per response as a nested token column: on its trained tokens, 0 on the others."""
    rows = [value * mask for value, mask in zip(value_N.float(), mask_NT.unbind(), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def row_sums(value_NT: Tensor) -> Tensor:
    """Sum over the tokens of each response, from a nested column."""
    return torch.segment_reduce(value_NT.values(), "sum", lengths=value_NT.offsets().diff())


def varies_within(score_N: Tensor, group_N: Tensor) -> Tensor:
    """Whether the response's group holds scores that differ."""
    highest, lowest = (
        torch.zeros(int(group_N.max()) + 1, dtype=score_N.dtype).scatter_reduce(
            0, group_N, score_N, how, include_self=False
        )
        for how in ("amax", "amin")
    )
    return (highest > lowest)[group_N]


def final_rows(keys: list[str]) -> Tensor:
    """For each response, the row of its sample's last output (itself in single-turn rollouts).

    An agent loop may return several outputs a sample, all with the reward of the last one; verl
    builds their keys as PROMPT_SAMPLE_OUTPUT.
    """
    last: dict[str, tuple[int, int]] = {}
    samples = [key.rpartition("_") for key in keys]
    for row, (sample, _, output) in enumerate(samples):
        last[sample] = max(last.get(sample, (-1, row)), (int(output), row))
    return torch.tensor([last[sample][1] for sample, _, _ in samples])


def prompt_of(key: str) -> str:
    """The prompt's id in the key of a response, which verl builds as PROMPT_SAMPLE_OUTPUT."""
    return key.rsplit("_", 2)[0]


def group_numbers(uids: list[str]) -> Tensor:
    """A number per distinct uid, from 0 in order of appearance."""
    number: dict[str, int] = defaultdict(count().__next__)
    return torch.from_numpy(np.fromiter(map(number.__getitem__, uids), np.int64, len(uids)))
