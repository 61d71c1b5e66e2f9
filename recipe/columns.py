"""From verl's columns, nested over tokens, to one number per response."""

import numpy as np
import torch
from torch import Tensor


def per_response(mask_NT: Tensor, advantage_NT: Tensor) -> tuple[Tensor, Tensor]:
    """Length and advantage of each response, from nested token columns.

    Returns:
        length_N, the trained tokens; advantage_N, 0 where there are none.
    """
    row_T = torch.arange(mask_NT.size(0)).repeat_interleave(mask_NT.offsets().diff())
    mask_T = mask_NT.values().bool()
    length_N = torch.bincount(row_T[mask_T], minlength=mask_NT.size(0))
    first_N = torch.zeros(mask_NT.size(0), dtype=torch.double)
    first_N[row_T[mask_T]] = advantage_NT.values()[mask_T].double()
    return length_N, first_N


def varies_within(score_N: Tensor, group_N: Tensor) -> Tensor:
    """Whether the response's group holds scores that differ."""
    highest, lowest = (
        torch.zeros(int(group_N.max()) + 1).scatter_reduce(
            0, group_N, score_N, how, include_self=False
        )
        for how in ("amax", "amin")
    )
    return (highest > lowest)[group_N]


def group_numbers(uids: list[str]) -> Tensor:
    """A number per distinct uid, from 0 in order of appearance."""
    number = {uid: i for i, uid in enumerate(dict.fromkeys(uids))}
    return torch.from_numpy(np.fromiter(map(number.__getitem__, uids), np.int64, len(uids)))
