"""SGPO (arXiv:2505.11595): groups without a correct response learn from how far each one is right.

A judge finds the share s of a response that stands before its first wrong step. In a group in which
every response is incorrect, the reward of a response is

    r = 1 / (1 + exp(beta * (gamma - s)))

on a scale where a correct one has 1 and other incorrect ones 0, and the advantages are GRPO's. All
other groups are as under GRPO. The paper's main text gives neither beta nor gamma, and a public
re-implementation has the exponent's sign the other way round; here r rises with s, as the text says
(assumed).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from ..within import centred_within, normalised_within
from .base import Advantage, Scored

# verl's, added to a group's standard deviation.
EPSILON = 1e-6


@dataclass(frozen=True)
class SgpoSettings:
    """Hold the section `advantage.sgpo`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    beta: Annotated[float, Gt(0)]
    """Slope."""
    gamma: Annotated[float, Ge(0), Le(1)]
    """The share at which the reward is 1/2."""
    gap: Annotated[float, Gt(0)]
    """Score of a correct response minus that of an incorrect one. It matters only where groups are
    not divided by their standard deviation."""


def graded_groups(correct_N: Tensor, progress_N: Tensor, group_N: Tensor) -> Tensor:
    """Return whether a response's group has no correct one and is judged completely, (N,) bool."""
    usable_N = ~correct_N & progress_N.isfinite()
    lacking_P = torch.bincount(group_N, weights=(~usable_N).double())
    return (lacking_P == 0)[group_N]


class Sgpo(Advantage):
    """Grade the responses of groups in which every one is incorrect."""

    Settings = SgpoSettings
    settings: SgpoSettings
    needs = ("progress_N",)

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch, and how much was graded."""
        assert rows.progress_N is not None
        graded_N = graded_groups(rows.correct_N, rows.progress_N, rows.group_N)
        steepness = self.settings.beta * (rows.progress_N - self.settings.gamma)
        reward_N = torch.sigmoid(steepness.double()).where(graded_N, 0.0)
        if self.divide_by_std:
            found_N = normalised_within(reward_N, rows.group_N, EPSILON)
        else:
            found_N = self.settings.gap * centred_within(reward_N, rows.group_N)
        metrics = {"graded": graded_N.double().mean().item()}
        if graded_N.any():
            metrics["progress"] = rows.progress_N[graded_N].double().mean().item()
        return found_N.where(graded_N, rows.advantage_N.double()), metrics
