"""The aggregation rules, under the name that other projects import: `recipe.aggregation.RULES`.

`recipe/maths/rules.py` holds them.
"""

from recipe.maths.rules import RULES, Rule, over_all_rows, rule, value_and_slope

__all__ = ["RULES", "Rule", "over_all_rows", "rule", "value_and_slope"]
