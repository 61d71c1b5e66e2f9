"""Hold complete groups of sampled responses.

Axes: `_N` responses, `_P` groups.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from recipe.maths.within import centred_within


class SampledGroups(NamedTuple):
    """Hold complete groups of sampled responses."""

    prompt_N: list[Tensor]
    """Token ids of the prompt."""
    token_N: list[Tensor]
    """Token ids of the response, the end of turn included."""
    score_N: Tensor
    """The score by the project's grader, 1 or -1."""
    group_N: Tensor
    """Numbered from 0."""

    @property
    def length_N(self) -> Tensor:
        """Return the number of tokens of each response."""
        return torch.tensor([len(token) for token in self.token_N])

    @property
    def advantage_N(self) -> Tensor:
        """Return A_i = r_i - mean of the group's r, as in arXiv:2601.05002."""
        return centred_within(self.score_N, self.group_N)

    def of(self, groups: Iterable[int]) -> "SampledGroups":
        """Return the responses of these groups, numbered anew in this order."""
        rows_P = [(self.group_N == group).nonzero()[:, 0] for group in groups]
        size_P = torch.tensor([len(rows) for rows in rows_P], dtype=torch.long)
        part = self.rows(torch.cat([*rows_P, size_P[:0]]))
        return part._replace(group_N=torch.arange(len(rows_P)).repeat_interleave(size_P))

    def rows(self, chosen: Tensor) -> "SampledGroups":
        """Return the responses at these positions, with the numbers of their groups."""
        return SampledGroups(
            [self.prompt_N[i] for i in chosen],
            [self.token_N[i] for i in chosen],
            self.score_N[chosen],
            self.group_N[chosen],
        )

    def mixed(self) -> list[int]:
        """Return the groups that have correct and incorrect responses."""
        correct_P = torch.bincount(self.group_N, weights=(self.score_N > 0).double())
        size_P = torch.bincount(self.group_N)
        return ((correct_P > 0) & (correct_P < size_P)).nonzero()[:, 0].tolist()
