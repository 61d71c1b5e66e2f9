"""The rules of one run: the chosen rule, its settings, and the responses that it counts."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from .learned import ScalarSettings
from .rules import MICRO, RULES, Rule, with_limit, with_positive_factor


@dataclass(frozen=True)
class AggregationSettings:
    """Hold the section `aggregation`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    rule: str | None
    """A name in `RULES`; None under an objective without aggregation."""
    constant_length: Annotated[float, Gt(0)]
    """Reference length of the rules `constant` and `vl_norm`, in tokens."""
    vl_norm_alpha: Annotated[float, Ge(0), Le(1)] = 0.75
    """Exponent of the rule `vl_norm`; 0 is `constant`."""
    positive_factor: Annotated[float, Ge(0)] = 1.0
    """Factor of the weights of responses with a positive advantage, under any rule."""
    mask_truncated: bool = False
    """Leave responses that reached the length limit out of the loss and of the rule's lengths."""
    drop_zero_groups: bool = False
    """Leave groups whose advantages are all 0 out of the number of responses."""
    scalar: ScalarSettings | None = None
    """Settings of the rule `lambda`; None under every other rule."""

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown rule, or a scalar without the rule that learns it."""
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(
                f"aggregation.rule is {self.rule!r}; known rules are {', '.join(sorted(RULES))}. "
                f"Pick one on the command line, e.g. aggregation=balanced."
            )
        if self.rule is None and self.positive_factor != 1:
            raise ValueError(
                f"aggregation.positive_factor is {self.positive_factor:g}, but this objective has "
                f"no aggregation. Leave it out, or choose objective=policy_gradient and a rule."
            )
        if (self.rule == "lambda") != (self.scalar is not None):
            raise ValueError(
                f"aggregation.rule is {self.rule} and aggregation.scalar is "
                f"{'missing' if self.scalar is None else 'set'}, but aggregation.scalar belongs to "
                f"the rule lambda. Choose aggregation=lambda, which sets both."
            )

    def rules(
        self, exponent: float | None = None, micro_N: Tensor | None = None
    ) -> dict[str, Rule]:
        """Return every rule with its settings bound; `lambda` only if it is the chosen rule.

        Args:
            exponent: learned scalar of the rule `lambda`; None for its start.
            micro_N: number of each counted response's micro-batch; None leaves `token_micro` out.
        """
        bound = with_limit(self.constant_length)
        bound["vl_norm"] = partial(bound["vl_norm"], alpha=self.vl_norm_alpha)
        micro = bound.pop(MICRO)
        if micro_N is not None:
            bound[MICRO] = partial(micro, micro_N=micro_N)
        rule = bound.pop("lambda")
        if self.scalar is not None:
            at = self.scalar.start if exponent is None else exponent
            bound["lambda"] = partial(rule, exponent=at, spread=self.scalar.spread)
        return with_positive_factor(bound, self.positive_factor)

    def counted(
        self, length_N: Tensor, advantage_N: Tensor, group_N: Tensor, truncated_N: Tensor
    ) -> Tensor:
        """Return which responses the rule counts, (N,) bool."""
        counted_N = length_N > 0
        if self.mask_truncated:
            counted_N = counted_N & ~truncated_N
        if self.drop_zero_groups:
            mixed = group_N[counted_N & (advantage_N != 0)]
            counted_N = counted_N & torch.isin(group_N, mixed)
        return counted_N
