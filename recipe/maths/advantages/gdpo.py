"""GDPO (arXiv:2601.05242): every reward is normalised within the group by itself.

Adding rewards up before they are normalised makes different combinations of them the same
advantage. With r_n the n-th reward of a response and w_n its weight,

    A_i = sum_n w_n * (r_ni - mean_group r_n) / (std_group r_n + epsilon)
    A_i <- (A_i - mean_batch A) / (std_batch A + epsilon)

with standard deviations over one less than the number of rows. The batch's statistics are over
responses, as the text has it; the authors' verl code weighs a response by its tokens, which is
the option `token`. It comes before the aggregation, so it composes with every rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from recipe.maths.advantages.scored import Scored
from recipe.maths.columns import varies_within
from recipe.maths.rules import mean_within

STATISTICS = ("response", "token")


@dataclass(frozen=True)
class GdpoSettings:
    """`advantage.gdpo`."""

    rewards: Mapping[str, float]
    """Weight of each component of the reward: `correctness`, the verdict as 0 or 1; `length`,
    whether a response is within `length_limit`; and what the reward returns by a name of its own,
    such as `format`."""
    statistics: str
    """What the batch's mean and standard deviation are over: `response` or `token`."""
    epsilon: float
    """Added to both standard deviations."""
    length_limit: float
    """Tokens up to which the component `length` is 1."""

    def __post_init__(self) -> None:
        """Raise ValueError for a setting no run could mean."""
        weights = list(self.rewards.values()) if isinstance(self.rewards, Mapping) else []
        if not any(weights) or not all(
            isinstance(w, int | float) and abs(w) < float("inf") for w in weights
        ):
            raise ValueError(
                f"advantage.gdpo.rewards is {self.rewards}, but must name at least one "
                f"component of the reward with a weight that is a number other than 0, e.g. "
                f"correctness: 1."
            )
        if self.statistics not in STATISTICS:
            raise ValueError(
                f"advantage.gdpo.statistics is {self.statistics!r}; it may be "
                f"{', '.join(STATISTICS)}."
            )
        for name in ("epsilon", "length_limit"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"advantage.gdpo.{name} is {value}, but must be above 0.")


def normalised_within(
    value_N: Tensor, group_N: Tensor, epsilon: float, divide_by_std: bool = True
) -> Tensor:
    """(value - mean) / (std + epsilon) within each group; 0 where all of a group are equal."""
    value_N = value_N.double()
    # The mean of equal numbers is rounded.
    deviation_N = (value_N - mean_within(value_N, group_N)).where(
        varies_within(value_N, group_N), 0.0
    )
    if not divide_by_std:
        return deviation_N
    count_P = torch.bincount(group_N)
    square_P = torch.bincount(group_N, weights=deviation_N.square())
    std_P = (square_P / (count_P - 1).clamp(min=1)).sqrt()
    return deviation_N / (std_P[group_N] + epsilon)


def normalised_over_batch(value_N: Tensor, count_N: Tensor, epsilon: float) -> Tensor:
    """(value - mean) / (std + epsilon) over the batch, in which row i stands for `count_N[i]`."""
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
    """The advantage of each response; see the module's equations.

    Args:
        components: value of each reward, (N,), by name.
        length_N: trained tokens of each response, read under the statistics `token`.
        group_N: number of the response's group.
        settings: which rewards count how much.
        divide_by_std: whether groups are divided by their standard deviation, as under GRPO.
    """
    whole_N = torch.zeros(len(group_N), dtype=torch.double)
    for name, weight in settings.rewards.items():
        whole_N += weight * normalised_within(
            components[name], group_N, settings.epsilon, divide_by_std
        )
    if settings.statistics == "token":
        return normalised_over_batch(whole_N, length_N, settings.epsilon)
    found_N = normalised_over_batch(whole_N, torch.ones_like(length_N), settings.epsilon)
    # Each group adds up to 0, so the batch's mean is 0, but for its rounding.
    return found_N.where(whole_N != 0, 0.0)


class Gdpo:
    """The advantage `gdpo` of a run; it remembers nothing."""

    memory = None

    def __init__(self, settings: GdpoSettings, divide_by_std: bool = True) -> None:
        """With these settings, and `algorithm.norm_adv_by_std_in_grpo`."""
        self.settings, self.divide_by_std = settings, divide_by_std

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """The advantages of a batch, and each reward's mean and share of groups it tells apart.

        Raises:
            ValueError: the reward has not returned one of the components, or one that is there.
        """
        given = {
            "correctness": rows.correct_N.double(),
            "length": (rows.num_tokens_N <= self.settings.length_limit).double(),
        }
        columns = {name: [i.get(name) for i in rows.info_N] for name in self.settings.rewards}
        returned = {
            name: torch.tensor([float(x) for x in column]).double()
            for name, column in columns.items()
            if all(isinstance(x, Real | np.bool_) for x in column)
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
