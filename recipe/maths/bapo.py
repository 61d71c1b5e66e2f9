"""BAPO (arXiv:2510.18927): clip bounds that move until both advantage signs contribute enough.

PPO's clipped loss bounds the ratio r above by u where A > 0, and below by l where A < 0. What the
tokens of a mini-batch contribute is

    P(u) = sum over A > 0 of m min(r, u) A        N(l) = sum over A < 0 of m max(r, l) |A|

with a factor m for each token. BAPO raises l and u by steps until P / (P + N) is at least a target,
or both are at their ends. In a group with two verdicts sum A is 0, so at r = 1 and m = 1 the
balance P / N is the mean length of the correct over that of the incorrect responses: the coupling
of sign and length that Balanced Aggregation removes by weights.

N grows with l: below l a token loses its gradient, not its value. So raising l never raises the
share, and with `first: lower` it goes to its end before u moves, as in the public code.

P depends on u alone and N on l alone, so one sum for each possible bound tells everything.
Axes: `_U` bounds above, `_L` bounds below, `_T` tokens.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Gt, Lt
from torch import Tensor

# Each step of a bound costs a pass over the tokens of a mini-batch.
MOST_STEPS = 1000


@dataclass(frozen=True)
class BapoSettings:
    """Hold the section `objective.bapo`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    target: Annotated[float, Gt(0), Lt(1)]
    """rho_0, the share P / (P + N) that is asked for."""
    lower_start: Annotated[float, Gt(0), Lt(1)]
    """l, as a ratio, at the beginning of every search."""
    lower_end: Annotated[float, Gt(0), Lt(1)]
    """The largest l."""
    lower_step: Annotated[float, Gt(0)]
    upper_start: Annotated[float, Gt(1)]
    """u, as a ratio, at the beginning of every search."""
    upper_end: Annotated[float, Gt(1)]
    """The largest u."""
    upper_step: Annotated[float, Gt(0)]
    first: Literal["lower", "upper"]
    """The bound that moves first; the other moves once it is at its end."""
    measure: Literal["tokens", "probability", "weights"]
    """The factor m of a token: 1, its probability under the old policy (equation 8), or the weight
    that the aggregation rule gives its response."""
    scope: Literal["mini_batch", "micro_batch"]
    """Say what is balanced. A micro-batch makes the loss depend on how verl splits the batch."""

    def __post_init__(self) -> None:
        """Raise ValueError if a bound ends before it starts, or takes too many steps."""
        for name in ("lower", "upper"):
            start, end, step = (getattr(self, f"{name}_{x}") for x in ("start", "end", "step"))
            if end < start:
                raise ValueError(
                    f"objective.bapo.{name}_end is {end:g}, but the bound starts at {start:g} and "
                    f"only rises. Give at least {start:g}."
                )
            if (end - start) / step > MOST_STEPS:
                raise ValueError(
                    f"objective.bapo.{name}_step is {step:g}, which makes "
                    f"{(end - start) / step:.0f} steps from {start:g} to {end:g}. Give a larger "
                    f"step; at most {MOST_STEPS} steps are allowed."
                )

    @property
    def lowers(self) -> list[float]:
        """Return the values that l may have, in order."""
        return steps(self.lower_start, self.lower_end, self.lower_step)

    @property
    def uppers(self) -> list[float]:
        """Return the values that u may have, in order."""
        return steps(self.upper_start, self.upper_end, self.upper_step)


class Bounds(NamedTuple):
    """Hold the bounds of an update, and the share P / (P + N) with them and at their start."""

    lower: float
    upper: float
    share: float
    share_start: float


def steps(start: float, end: float, step: float) -> list[float]:
    """Return start, start + step and so on, with `end` as the last."""
    num = int((end - start) / step * (1 + 1e-9))
    found = [start + i * step for i in range(num + 1)]
    return found if end - found[-1] < 1e-9 * step else [*found, end]


def contributions(
    ratio_T: Tensor, advantage_T: Tensor, factor_T: Tensor, settings: BapoSettings
) -> Tensor:
    """Return P for every u, then N for every l, (U + L,) float64, of these tokens.

    Args:
        ratio_T: r of the trained tokens.
        advantage_T: A.
        factor_T: m.
        settings: the bounds.
    """
    ratio_T, size_T = ratio_T.double(), (factor_T * advantage_T.abs()).double()
    (up, up_size), (down, down_size) = (
        (ratio_T[chosen_T], size_T[chosen_T]) for chosen_T in (advantage_T > 0, advantage_T < 0)
    )
    positive = [(up.clamp(max=x) * up_size).sum() for x in settings.uppers]
    negative = [(down.clamp(min=x) * down_size).sum() for x in settings.lowers]
    return torch.stack([*positive, *negative])


def chosen_bounds(found: Tensor, settings: BapoSettings) -> Bounds:
    """Return the first bounds whose share reaches the target, or the last ones.

    Args:
        found: what `contributions` returned, added up over all tokens that are balanced.
        settings: the bounds, their order and the target.
    """
    uppers, lowers = settings.uppers, settings.lowers
    positive, negative = found[: len(uppers)].tolist(), found[len(uppers) :].tolist()

    def share(upper: int, lower: int) -> float:
        total = positive[upper] + negative[lower]
        # Without any contribution there is nothing to balance.
        return positive[upper] / total if total else 1.0

    upper = lower = 0
    for bound in ("lower", "upper") if settings.first == "lower" else ("upper", "lower"):
        while share(upper, lower) < settings.target:
            if bound == "lower" and lower + 1 < len(lowers):
                lower += 1
            elif bound == "upper" and upper + 1 < len(uppers):
                upper += 1
            else:
                break
    return Bounds(lowers[lower], uppers[upper], share(upper, lower), share(0, 0))
