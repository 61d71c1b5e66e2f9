"""What an advantage is computed from: the scored responses of a train batch, without padding."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Scored(NamedTuple):
    """One row a response (axis `_N`), in groups numbered from 0."""

    advantage_N: Tensor
    """GRPO's, of verl; exactly 0 where the group's scores are equal."""
    score_N: Tensor
    """What the reward gave."""
    correct_N: Tensor
    """Whether the verdict is right, bool."""
    length_N: Tensor
    """Trained tokens; 0 where all were rejected."""
    num_tokens_N: Tensor
    """Tokens, trained or not."""
    group_N: Tensor
    """Number of the prompt's group."""
    info_N: Sequence[Mapping[str, Any]]
    """What the reward returned of each."""
