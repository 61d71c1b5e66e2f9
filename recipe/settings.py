"""Our own config keys, validated once."""

from dataclasses import dataclass
from functools import partial

from omegaconf import DictConfig

from recipe.aggregation import RULES, Rule


@dataclass(frozen=True)
class AggregationSettings:
    """The `aggregation` section of the config."""

    rule: str
    """A name in `recipe.aggregation.RULES`."""
    constant_length: float
    """Reference length of the rule `constant`."""
    mask_truncated: bool = False
    """Leave responses that reached the length limit out of loss and lengths."""
    drop_zero_groups: bool = False
    """Leave groups whose advantages are all 0 out of N."""

    def __post_init__(self) -> None:
        """Raise ValueError for a setting no run could mean."""
        if self.rule not in RULES:
            raise ValueError(
                f"aggregation.rule is {self.rule!r}; known rules are {', '.join(sorted(RULES))}. "
                f"Pick one on the command line, e.g. aggregation=balanced."
            )
        if self.constant_length <= 0:
            raise ValueError(
                f"aggregation.constant_length is {self.constant_length}, but a length is above 0. "
                f"Leave it out to use data.max_response_length."
            )

    @classmethod
    def from_config(cls, config: DictConfig) -> "AggregationSettings":
        """Read the `aggregation` section of a composed config."""
        return cls(**{str(key): value for key, value in config.aggregation.items()})

    def rules(self) -> dict[str, Rule]:
        """Every rule, with the constant bound."""
        constant = partial(RULES["constant"], limit=self.constant_length)
        return {**RULES, "constant": constant}
