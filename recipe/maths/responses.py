"""The responses of a train batch, one row each, and what the driver makes of them.

Axes: `_N` rows (padding among them), `_P` groups, `_T` tokens, `_S` samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .advantages.base import Scored
from .columns import group_numbers, offsets
from .diagnostics import common_prefix, diagnose
from .rules import Rule


class Responses(NamedTuple):
    """Hold one row for each response of the train batch."""

    length_N: Tensor
    """Trained tokens; 0 of padding, aborted and rejected rows."""
    advantage_N: Tensor
    """One group-relative advantage per response."""
    score_N: Tensor
    correct_N: Tensor
    """Say whether the response is correct, bool."""
    truncated_N: Tensor
    """Say whether it reached the length limit."""
    group_N: Tensor
    """Number of its prompt."""
    num_tokens_N: Tensor
    """Tokens, trained or not."""
    real_N: Tensor
    """Say whether it is a response, not a row of padding."""
    micro_N: Tensor | None
    """Number of the micro-batch that trains it; None if no rule asks, or nobody can tell."""
    final_N: Tensor
    """The row of its sample's last output."""
    info_N: Sequence[Mapping[str, Any]]
    """Hold what the reward returned."""
    mask_NT: Tensor
    """Nested, 1 on trained tokens."""
    tokens_NT: Tensor
    """Nested token ids."""
    square_N: Tensor | None = None
    """`Scored.square_N` of each row; None if the advantage does not need it."""
    progress_N: Tensor | None = None
    """`Scored.progress_N`, in the same way."""

    def scored(self) -> Scored:
        """Return the input of an advantage: the last output of each sample, without padding."""
        chosen = self.samples()
        return Scored(
            advantage_N=self.advantage_N[chosen],
            score_N=self.score_N[chosen],
            correct_N=self.correct_N[chosen],
            length_N=self._of_samples(self.length_N)[chosen],
            num_tokens_N=self._of_samples(self.num_tokens_N)[chosen],
            group_N=group_numbers(self.group_N[chosen].tolist()),
            info_N=[self.info_N[row] for row in chosen.tolist()],
            square_N=None if self.square_N is None else self._of_samples(self.square_N)[chosen],
            progress_N=None if self.progress_N is None else self.progress_N[chosen],
        )

    def with_advantages(self, advantage_S: Tensor) -> "Responses":
        """Return the rows with the advantages of `scored()`.

        All outputs of a sample get its advantage, and padding gets 0.
        """
        advantage_N = torch.zeros(len(self.score_N), dtype=torch.double)
        advantage_N[self.samples()] = advantage_S
        return self._replace(advantage_N=advantage_N[self.final_N].where(self.length_N > 0, 0.0))

    def _of_samples(self, count_N: Tensor) -> Tensor:
        """Add numbers up over the outputs of each sample, at the row of its last output."""
        return torch.zeros_like(count_N).scatter_add(0, self.final_N, count_N)

    def samples(self) -> Tensor:
        """Return the rows that are the last output of a sample, without padding."""
        is_final_N = self.final_N == torch.arange(len(self.final_N))
        return (is_final_N & self.real_N).nonzero()[:, 0]


def describe(
    rows: Responses, counted_N: Tensor, rules: Mapping[str, Rule], chosen: str | None
) -> dict[str, float]:
    """Return the diagnostics of the counted rows under every rule.

    Args:
        rows: the batch.
        counted_N: which rows the rule counts, (N,) bool.
        rules: every rule, with its settings bound.
        chosen: the rule that trains; None if the objective has no aggregation.
    """
    if not counted_N.any():
        return {}
    length_C, advantage_C, group_C = (
        x[counted_N] for x in (rows.length_N, rows.advantage_N, rows.group_N)
    )
    weights = {name: weigh(length_C, advantage_C, group_C) for name, weigh in rules.items()}
    begins = offsets(rows.tokens_NT)
    prefix_P = common_prefix(
        rows.tokens_NT.values(), begins[:-1][counted_N], begins.diff()[counted_N], group_C
    )
    return diagnose(length_C, advantage_C, group_C, weights, chosen, prefix_P)
