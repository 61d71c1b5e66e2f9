"""Conflict tokens of GTPO (arXiv:2508.03772), which a group's two advantage signs share.

Responses of a group often begin, and end, with the same tokens. There a positive and a negative
advantage push the same token up and down. A response's first run is the longest stretch from its
beginning in which every token also stands at the same position of a response of the other sign. The
last run is the same from the end. Only token ids are read. Axes: `_N` responses, `_T` tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor


@dataclass(frozen=True)
class GtpoSettings:
    """Hold the section `objective.gtpo`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    positive: Annotated[float, Ge(0)]
    """Factor of a conflict token of a response with A > 0."""
    negative: Annotated[float, Ge(0)]
    """The same where A < 0."""
    as_code: bool
    """Do as the public code: divide a response's loss by the number of its conflict tokens, and
    apply the factor twice to a token of both runs."""


def run_lengths(tokens_N: Sequence[Sequence[int]], positive_N: Sequence[bool]) -> list[int]:
    """Return the length of each response's first run, within one group.

    Args:
        tokens_N: token ids of the responses whose advantage is not 0.
        positive_N: whether the advantage is positive.
    """
    found = [0] * len(tokens_N)
    running, position = set(range(len(tokens_N))), 0
    while running:
        there = [i for i, tokens in enumerate(tokens_N) if position < len(tokens)]
        up = {tokens_N[i][position] for i in there if positive_N[i]}
        down = {tokens_N[i][position] for i in there if not positive_N[i]}
        both = up & down
        running = {i for i in running.intersection(there) if tokens_N[i][position] in both}
        for i in running:
            found[i] += 1
        position += 1
    return found


def conflict_runs(
    tokens_N: Sequence[Tensor], advantage_N: Tensor, group_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the lengths of each response's first and last run, (N,) each.

    Args:
        tokens_N: token ids of each response.
        advantage_N: its advantage; responses with 0 are in no conflict.
        group_N: its group.
    """
    first_N, last_N = torch.zeros(len(group_N)).long(), torch.zeros(len(group_N)).long()
    for group in group_N[advantage_N != 0].unique():
        chosen = ((group_N == group) & (advantage_N != 0)).nonzero()[:, 0]
        positive = (advantage_N[chosen] > 0).tolist()
        tokens = [tokens_N[i].tolist() for i in chosen]
        first_N[chosen] = torch.tensor(run_lengths(tokens, positive))
        last_N[chosen] = torch.tensor(run_lengths([row[::-1] for row in tokens], positive))
    return first_N, last_N


def token_factors(
    length: int, first: int, last: int, is_positive: bool, settings: GtpoSettings
) -> Tensor:
    """Return the factor of each token of one response, (T,).

    Args:
        length: its tokens.
        first: length of its first run.
        last: length of its last run.
        is_positive: whether its advantage is.
        settings: the factors.
    """
    factor = settings.positive if is_positive else settings.negative
    found_T = torch.ones(length)
    found_T[:first] = factor
    tail = found_T[length - last :]
    # Of the tokens in both runs the public code takes the factor twice.
    found_T[length - last :] = tail * factor if settings.as_code else factor
    return found_T
