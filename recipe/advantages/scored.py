"""What an advantage is computed from: the scored responses of a train batch, without padding."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Scored(NamedTuple):
    """One row a response (axis `_N`), in groups numbered from 0."""

    advantage_N: Tensor
    """GRPO's, of verl; exactly 0 where the group's scores are equal."""
    score_N: Tensor
    """What the reward gave."""
    right_N: Tensor
    """Whether the verdict is right, bool."""
    length_N: Tensor
    """Trained tokens; 0 where all were rejected."""
    num_tokens_N: Tensor
    """Tokens, trained or not."""
    group_N: Tensor
    """Number of the prompt's group."""
    components: Mapping[str, Tensor]
    """Parts of the reward by name, (N,) each."""


def per_group_mean(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Mean over the response's group, given back per response."""
    total_P = torch.bincount(group_N, weights=value_N.double())
    return (total_P / torch.bincount(group_N))[group_N]
