"""GDPO (arXiv:2601.05242): every reward is normalised within the group by itself.

Adding rewards up before they are normalised makes different combinations of them the same
advantage. With r_n the n-th reward of a response and w_n its weight,

    A_i = sum_n w_n * (r_ni - mean_group r_n) / (std_group r_n + epsilon)
    A_i <- (A_i - mean_batch A) / (std_batch A + epsilon)

with standard deviations over one less than the number of rows. The batch's statistics are over
responses, as the text has it; the authors' verl code weighs a response by its tokens, which is
the option `token`. It comes before the aggregation, so it composes with every rule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from ..within import centred_within, normalised_within, varies_within
from .base import Advantage, Scored


@dataclass(frozen=True)
class GdpoSettings:
    """Hold the section `advantage.gdpo`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rewards: Mapping[str, Annotated[float, Lt(math.inf), Gt(-math.inf)]]
    """Weight of each component of the reward. `correctness` is 1 for a correct response, else 0.
    `length` is 1 for a response within `length_limit`. Any other name is one that the reward
    function returns, such as `format`."""
    statistics: Literal["response", "token"]
    """Say whether the batch's mean and standard deviation are over responses or over tokens."""
    epsilon: Annotated[float, Gt(0)]
    """Added to both standard deviations."""
    length_limit: Annotated[float, Gt(0)]
    """Tokens up to which the component `length` is 1."""

    def __post_init__(self) -> None:
        """Raise ValueError if no component counts."""
        if not any(self.rewards.values()):
            raise ValueError(
                f"advantage.gdpo.rewards is {dict(self.rewards)}, but must name at least one "
                f"component of the reward with a weight other than 0, e.g. correctness: 1."
            )


def normalised_over_batch(value_N: Tensor, count_N: Tensor, epsilon: float) -> Tensor:
    """Return (value - mean) / (std + epsilon) over a batch in which row i counts `count_N[i]`."""
    count_N = count_N.double()
    mean = (count_N * value_N).sum() / count_N.sum()
    square = (count_N * (value_N - mean).square()).sum() / (count_N.sum() - 1).clamp(min=1)
    return (value_N - mean) / (square.sqrt() + epsilon)


def gdpo_advantages(
    components: Mapping[str, Tensor],
    length_N: Tensor,
    group_N: Tensor,
    settings: GdpoSettings,
    divide_by_std: bool = True,
) -> Tensor:
    """Return the advantage of each response by the equations of this module.

    Args:
        components: value of each reward, (N,), by name.
        length_N: trained tokens of each response, read under the statistics `token`.
        group_N: number of the response's group.
        settings: which rewards count how much.
        divide_by_std: whether groups are divided by their standard deviation, as under GRPO.
    """
    whole_N = torch.zeros(len(group_N), dtype=torch.double)
    for name, weight in settings.rewards.items():
        if divide_by_std:
            whole_N += weight * normalised_within(components[name], group_N, settings.epsilon)
        else:
            whole_N += weight * centred_within(components[name], group_N)
    if settings.statistics == "token":
        return normalised_over_batch(whole_N, length_N, settings.epsilon)
    found_N = normalised_over_batch(whole_N, torch.ones_like(length_N), settings.epsilon)
    # Each group adds up to 0, so the batch's mean is 0, but for its rounding.
    return found_N.where(whole_N != 0, 0.0)


class Gdpo(Advantage):
    """Normalise every component of the reward by itself. Nothing is remembered between steps."""

    Settings = GdpoSettings
    settings: GdpoSettings

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantages of a batch, each component's mean, and its share of varying groups.

        Raises:
            ValueError: the reward has not returned one of the components, or one that is there.
        """
        given = {
            "correctness": rows.correct_N.double(),
            "length": (rows.num_tokens_N <= self.settings.length_limit).double(),
        }
        returned = {
            name: torch.tensor([float(info[name]) for info in rows.info_N]).double()
            for name in self.settings.rewards
            if all(isinstance(info.get(name), Real | np.bool_) for info in rows.info_N)
        }
        if twice := given.keys() & returned.keys():
            raise ValueError(
                f"advantage.gdpo.rewards names {', '.join(sorted(twice))}, which the trainer "
                f"makes and your scorer returns too. Have the scorer return it by another name."
            )
        given |= returned
        if missing := self.settings.rewards.keys() - given.keys():
            known = sorted(given.keys() | rows.info_N[0].keys())
            raise ValueError(
                f"advantage.gdpo.rewards names {', '.join(sorted(missing))}, which the reward "
                f"does not return as a number of every response; there are {', '.join(known)}. "
                f"Name some of these, or have your scorer return the others."
            )
        metrics: dict[str, float] = {}
        num_groups = len(rows.group_N.unique())
        for name in self.settings.rewards:
            differs_N = varies_within(given[name], rows.group_N)
            metrics[f"reward_{name}"] = given[name].double().mean().item()
            metrics[f"groups_by_{name}"] = len(rows.group_N[differs_N].unique()) / num_groups
        found_N = gdpo_advantages(
            given, rows.length_N, rows.group_N, self.settings, self.divide_by_std
        )
        return found_N, metrics
