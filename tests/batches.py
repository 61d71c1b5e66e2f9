"""Train batches for tests: by hypothesis, and one that never changes."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor


class Batch(NamedTuple):
    length_N: Tensor
    advantage_N: Tensor
    group_N: Tensor


BINARY = st.sampled_from([0.0, 1.0])


@st.composite
def batches(draw, *, equal_lengths=False, rewards=BINARY) -> Batch:
    """Groups of 2 to 6 responses, group-relative advantages, rows in any order."""
    lengths, advantages, groups = [], [], []
    same = draw(st.integers(1, 50))
    for group in range(draw(st.integers(1, 5))):
        size = draw(st.integers(2, 6))
        reward = torch.tensor(draw(st.lists(rewards, min_size=size, max_size=size))).double()
        advantages += (reward - reward.mean()).tolist()
        lengths += [same if equal_lengths else draw(st.integers(1, 50)) for _ in range(size)]
        groups += [7 * group + 3] * size
    order = draw(st.permutations(range(len(groups))))
    return Batch(
        torch.tensor(lengths)[order],
        torch.tensor(advantages, dtype=torch.double)[order],
        torch.tensor(groups)[order],
    )


def fixed_batch() -> Batch:
    """Three groups of four: mixed, mixed with an advantage of exactly 0, without variance."""
    return Batch(
        torch.tensor([5, 9, 2, 12, 3, 7, 7, 1, 4, 6, 8, 10]),
        torch.tensor([1.0, -1.0, 1.0, -1.0, 1.5, 0.0, -0.75, -0.75, 0.0, 0.0, 0.0, 0.0]).double(),
        torch.tensor([0] * 4 + [1] * 4 + [2] * 4),
    )


def token_columns(batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    """Padded (N, T) columns of a batch in float64: mask, log-probs near ratio 1, advantages."""
    generator = torch.Generator().manual_seed(seed)
    num, longest = len(batch.length_N), int(batch.length_N.max())
    mask_NT = (torch.arange(longest) < batch.length_N[:, None]).double()
    old = -2.0 + torch.randn(num, longest, generator=generator, dtype=torch.double)
    new = old + 0.3 * torch.randn(num, longest, generator=generator, dtype=torch.double)
    return {
        "response_mask": mask_NT,
        "old_log_prob": old,
        "log_prob": new,
        "advantages": batch.advantage_N[:, None] * mask_NT,
    }
