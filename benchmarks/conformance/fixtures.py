"""The batches and the ways to split them, the same for every framework. Imports torch only.

The log-probability of every token is a parameter of its own. So the gradient that a framework's
training step leaves is the derivative of its loss by each token's log-probability.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GROUPS, GROUP = 4, 4
N = GROUPS * GROUP
# The length limit. It is also the width of the split `padded`.
LIMIT = 32
SEED = 0


class Batch(NamedTuple):
    """Hold the responses of one train batch, whole groups one after the other."""

    name: str
    lengths: tuple[int, ...]
    quarters: tuple[int, ...]
    """Four times the advantages. They add up to 0 in each group, as group-relative ones do."""

    @property
    def advantages(self) -> list[float]:
        """Return the advantage of each response, exact in float32."""
        return [quarter / 4 for quarter in self.quarters]

    def groups(self) -> list[int]:
        """Return the number of each response's group."""
        return [row // GROUP for row in range(N)]

    def mask(self, rows: list[int], width: int) -> Tensor:
        """Return which tokens of some responses are there, (rows, width) bool."""
        lengths = torch.tensor([self.lengths[row] for row in rows])
        return torch.arange(width) < lengths[:, None]


# Both signs in each group, sizes that differ, and two batches whose mean lengths differ, so that a
# mean over the batch is not a constant.
BATCHES = (
    Batch(
        "short",
        (3, 7, 12, 5, 9, 2, 4, 6, 14, 11, 8, 1, 10, 13, 3, 16),
        (3, -1, -1, -1, 2, 2, -2, -2, 5, -2, -2, -1, 1, 1, 1, -3),
    ),
    Batch(
        "long",
        (21, 9, 17, 26, 5, 24, 13, 19, 30, 8, 22, 15, 11, 27, 18, 6),
        (-3, 1, 1, 1, 4, -1, -2, -1, 2, -2, 1, -1, -4, 2, 1, 1),
    ),
)


class Split(NamedTuple):
    """Say how one train batch is divided."""

    name: str
    ranks: tuple[tuple[tuple[int, ...], ...], ...]
    """The responses of each rank's micro-batches."""
    width: int | None = None
    """Tokens to pad every response to; None for the longest in the tensor."""
    packed: bool = False
    """The framework makes micro-batches of unequal numbers of responses, by a budget of tokens."""


ALL = tuple(range(N))
HALVES = (ALL[: N // 2], ALL[N // 2 :])


def _pairs(rows: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return micro-batches of two responses, in order. So none of them is a whole group."""
    return tuple(rows[start : start + 2] for start in range(0, len(rows), 2))


SPLITS = (
    Split("one", ((ALL,),)),
    Split("padded", ((ALL,),), width=LIMIT),
    Split("micro", (_pairs(ALL),)),
    Split("packed", ((ALL,),), packed=True),
    Split("ranks", tuple((half,) for half in HALVES)),
    Split("ranks_micro", tuple(_pairs(half) for half in HALVES)),
    Split("ranks_packed", tuple((half,) for half in HALVES), packed=True),
)
# Tokens of a packed micro-batch, with one token of prompt for each response.
BUDGET = {"short": 40, "long": 80}


class Table(torch.nn.Module):
    """Hold one parameter for the log-probability of each token, in place of a language model."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        value_NT = -1 - torch.rand(N, LIMIT, generator=generator, dtype=torch.float64)
        self.log_prob = torch.nn.Parameter(value_NT)
        self.seen: list[list[int]] = []
        """The responses of each forward pass, which are this rank's micro-batches."""

    def forward(self, rows: list[int], width: int) -> Tensor:
        """Return the log-probabilities of some responses' tokens, (rows, width)."""
        self.seen.append(list(rows))
        return self.log_prob[rows, :width]


def weights_of(gradient_NT: Tensor, batch: Batch) -> list[float]:
    """Return the weight of one token of each response: minus the derivative, by advantage.

    Raises:
        ValueError: the tokens of one response differ, or padding has a gradient.
    """
    weights = []
    rows = zip(gradient_NT.double(), batch.lengths, batch.advantages, strict=True)
    for row, (gradient_T, length, advantage) in enumerate(rows):
        weight_T = -gradient_T / advantage
        weight = weight_T[:length].mean().item()
        if (weight_T[:length] - weight).abs().max() > 1e-5 * abs(weight):
            raise ValueError(f"the tokens of response {row} have different weights: {weight_T}")
        if weight_T[length:].any():
            raise ValueError(f"padding of response {row} has a gradient")
        weights.append(weight)
    return weights
