"""The mathematics of token loss aggregation, for any trainer.

The wheel installs this folder as `balanced_aggregation`. These names are stable; the modules beside
this file are those that the recipe uses, and may change.
"""

from .library import Shares, metrics, report, shares, weights
from .rules import RULES, Rule, rule

__all__ = ["RULES", "Rule", "Shares", "metrics", "report", "rule", "shares", "weights"]
