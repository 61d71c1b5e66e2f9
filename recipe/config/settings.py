"""Our own config keys, validated once."""

from dataclasses import dataclass
from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf

from recipe.maths.rules import RULES, Rule

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class ScalarSettings:
    """`aggregation.scalar`: how the rule `lambda` learns its exponent."""

    start: float
    """Exponent of the first batch."""
    spread: float
    """How far the lengths move h from 1, `r` in arXiv:2510.06870."""
    optimizer: str
    """A name in `OPTIMIZERS`."""
    lr: float
    """Learning rate; AdamW keeps torch's other defaults, but for a weight decay of 0."""

    def __post_init__(self) -> None:
        """Raise ValueError for a setting no run could mean."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"aggregation.scalar.optimizer is {self.optimizer!r}; known ones are "
                f"{', '.join(OPTIMIZERS)}."
            )
        for name in ("start", "spread", "lr"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or (value <= 0 and name != "start"):
                kind = "a number" if name == "start" else "a number above 0"
                raise ValueError(f"aggregation.scalar.{name} is {value}, but must be {kind}.")


@dataclass(frozen=True)
class AggregationSettings:
    """The `aggregation` section of the config."""

    rule: str | None
    """A name in `recipe.maths.rules.RULES`; None under an objective that has no aggregation."""
    constant_length: float
    """Reference length of the rule `constant`."""
    mask_truncated: bool = False
    """Leave responses that reached the length limit out of loss and lengths."""
    drop_zero_groups: bool = False
    """Leave groups whose advantages are all 0 out of N."""
    scalar: ScalarSettings | None = None
    """Of the rule `lambda`; None under the others."""

    def __post_init__(self) -> None:
        """Raise ValueError for a setting no run could mean."""
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(
                f"aggregation.rule is {self.rule!r}; known rules are {', '.join(sorted(RULES))}. "
                f"Pick one on the command line, e.g. aggregation=balanced."
            )
        if self.constant_length <= 0:
            raise ValueError(
                f"aggregation.constant_length is {self.constant_length}, but a length is above 0. "
                f"Leave it out to use data.max_response_length."
            )
        if (self.rule == "lambda") != (self.scalar is not None):
            raise ValueError(
                f"aggregation.rule is {self.rule} and aggregation.scalar is "
                f"{'missing' if self.scalar is None else 'set'}, but it belongs to the rule lambda "
                f"alone. Choose aggregation=lambda, which sets both."
            )

    @classmethod
    def from_config(cls, config: DictConfig) -> "AggregationSettings":
        """Read the `aggregation` section of a composed config."""
        section = OmegaConf.to_container(config.aggregation, resolve=True)
        assert isinstance(section, dict)
        given = {str(key): value for key, value in section.items()}
        if isinstance(scalar := given.get("scalar"), dict):
            given["scalar"] = ScalarSettings(**{str(key): value for key, value in scalar.items()})
        return cls(**given)

    def rules(self, exponent: float | None = None) -> dict[str, Rule]:
        """Every rule with its settings bound; `lambda` only where it is trained.

        Args:
            exponent: of the rule `lambda`; its start if not given.
        """
        bound = {**RULES, "constant": partial(RULES["constant"], limit=self.constant_length)}
        rule = bound.pop("lambda")
        if self.scalar is not None:
            at = self.scalar.start if exponent is None else exponent
            bound["lambda"] = partial(rule, exponent=at, spread=self.scalar.spread)
        return bound
