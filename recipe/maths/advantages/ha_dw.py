"""HA-DW (arXiv:2601.08521): advantages weighted by how hard a prompt is against the run so far.

A group of G responses estimates its prompt's rate of success by p, and is used only if 0 < p < 1;
that makes advantages of hard prompts too small and those of easy ones too large. HA-DW compares p
with an anchor C of what the run has achieved so far and multiplies the advantage by

    Phi_i = scale * exp(-sgn(A_i) * (p - C))                                        (eq. 13-16)

so on prompts harder than the anchor positive responses count more and negative ones less, and the
reverse on easier ones. It comes before the aggregation, so it composes with every rule.
"""

import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt
from torch import Tensor

from ..diagnostics import spread_over_groups
from ..within import mean_within
from .base import Advantage, Scored

FILE = "ha_dw.json"


@dataclass(frozen=True)
class HaDwSettings:
    """Hold the section `advantage.ha_dw`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    anchor: Literal["adaptive", "window", "window_with_current"]
    """`adaptive` (eq. 8-11), `window` (appendix F), or `window_with_current` (the public code)."""
    scale: Annotated[float, Gt(0)]
    """`lambda_scale`."""
    window: Annotated[int, Ge(2)]
    """Batches in the anchor's memory: m of `adaptive`, h of the others. The standard deviation of
    a single anchor is 0, so there are at least 2."""
    rate: Annotated[float, Gt(0)]
    """eta; only `adaptive` reads it."""
    reward: Literal["correct", "score"]
    """Say what p and the anchor average: 1 for a correct response and 0 otherwise, or the score."""


class Anchor:
    """The evolving difficulty anchor: what the run has achieved before the batch at hand.

    `adaptive`, with y the mean reward of a batch:

        C+ = (1 - eta_t) * C- + eta_t * y        eta_t = eta * std(last m anchors), at most 1

    By this alone an anchor that has not moved has a standard deviation of 0 and never will, and
    the paper's start is not known. So until m batches were seen the anchor is their mean
    (assumed), as in `window`, where it is the mean of the last h batches. The first batch has
    nothing before it and is its own anchor (assumed).
    """

    def __init__(self, settings: HaDwSettings) -> None:
        """Begin without a batch."""
        self.settings = settings
        self.observed: deque[float] = deque(maxlen=settings.window)
        self.anchors: deque[float] = deque(maxlen=settings.window)

    def before(self, y: float) -> float:
        """Return C-, with which a batch of mean reward `y` is compared."""
        if self.settings.anchor == "window_with_current":
            return fmean([*self.observed, y][-self.settings.window :])
        return self.anchors[-1] if self.anchors else y

    def observe(self, y: float) -> float:
        """Take in a batch's mean reward, and return the part of the way to it that C moves."""
        self.observed.append(y)
        if self.settings.anchor != "adaptive" or len(self.anchors) < self.settings.window:
            self.anchors.append(fmean(self.observed))
            return 1 / len(self.observed)
        moved = min(1.0, self.settings.rate * pstdev(self.anchors))
        self.anchors.append((1 - moved) * self.anchors[-1] + moved * y)
        return moved

    def save(self, folder: Path) -> None:
        """Write what it remembers into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "anchor": self.settings.anchor,
            "reward": self.settings.reward,
            "observed": list(self.observed),
            "anchors": list(self.anchors),
        }
        (folder / FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the checkpoint was not written under HA-DW.
            ValueError: it was written with another kind of anchor, or of rewards.
        """
        if not (folder / FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE}: it was not saved under HA-DW, or by a node with "
                f"a disk of its own. Resume from a checkpoint of that advantage, on a disk "
                f"that all nodes see"
            )
        state = json.loads((folder / FILE).read_text())
        for name in ("anchor", "reward"):
            if state[name] != getattr(self.settings, name):
                raise ValueError(
                    f"{folder} was saved with advantage.ha_dw.{name}={state[name]}, but it is "
                    f"{getattr(self.settings, name)} now; go on with the one it was saved with"
                )
        self.observed = deque(state["observed"], maxlen=self.settings.window)
        self.anchors = deque(state["anchors"], maxlen=self.settings.window)


def difficulty_factors(
    advantage_N: Tensor, success_N: Tensor, anchor: float, scale: float
) -> Tensor:
    """Return the factor Phi of each response (eq. 13-16).

    The paper has -sgn(A) * sgn(p - C) * abs(p - C) in the exponent, which is -sgn(A) * (p - C).

    Args:
        advantage_N: group-relative advantages.
        success_N: p of the response's group, the mean of its rewards.
        anchor: C-, on the scale of the rewards.
        scale: lambda_scale.
    """
    return scale * (-advantage_N.sign() * (success_N - anchor)).exp()


class HaDw(Advantage):
    """Multiply advantages by a factor that compares the prompt's difficulty with the anchor."""

    Settings = HaDwSettings
    settings: HaDwSettings

    def __init__(self, settings: HaDwSettings, divide_by_std: bool = True) -> None:
        """Begin with an empty memory."""
        super().__init__(settings, divide_by_std)
        self.memory: Anchor = Anchor(settings)

    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the weighted advantages of a batch and its metrics; the anchor takes it in."""
        reward_N = rows.correct_N if self.settings.reward == "correct" else rows.score_N
        y = reward_N.double().mean().item()
        before = self.memory.before(y)
        success_N = mean_within(reward_N, rows.group_N)
        factor_N = difficulty_factors(rows.advantage_N, success_N, before, self.settings.scale)
        felt_N = factor_N.where(rows.advantage_N != 0, math.nan)
        moved = self.memory.observe(y)
        metrics = {
            "anchor": before,
            "observed": y,
            "anchor_moves": moved,
            "below_anchor": (success_N < before).double().mean().item(),
            **spread_over_groups("factor", felt_N),
            **spread_over_groups("factor_positive", felt_N[rows.advantage_N > 0]),
            **spread_over_groups("factor_negative", felt_N[rows.advantage_N < 0]),
        }
        return rows.advantage_N * factor_N, metrics
