"""Which aggregation rules, advantages and objectives go together: each combination is checked.

python -m recipe.config.combinations [--into README.md]
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from itertools import product
from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.config.checks import check_config
from recipe.config.compose import composed, groups, resolve

# What the options of each group set.
SETS = {
    "aggregation": ("aggregation", "algorithm"),
    "advantage": ("advantage",),
    "objective": ("objective",),
}


class Combination(NamedTuple):
    """An option of each group."""

    aggregation: str
    advantage: str
    objective: str

    @property
    def overrides(self) -> list[str]:
        """The command line that chooses it, on the demo."""
        chosen = (f"{group}={option}" for group, option in self._asdict().items())
        return ["+experiment=cpu_demo", *chosen]


def combinations() -> list[Combination]:
    """Every one that can be written, `none` last."""
    known = groups()
    options = (sorted(known[group], key=lambda name: (name == "none", name)) for group in SETS)
    return [Combination(*chosen) for chosen in product(*options)]


def config_of(combination: Combination) -> DictConfig:
    """Its config, put together from one composed config an option, as composing takes a while."""
    config = deepcopy(_with("objective", combination.objective))
    for group, option in combination._asdict().items():
        for section in SETS[group]:
            config[section] = deepcopy(_with(group, option)[section])
    return config


@cache
def _with(group: str, option: str) -> DictConfig:
    config = composed(["+experiment=cpu_demo", f"{group}={option}"])
    resolve(config)
    return config


def refusal(combination: Combination) -> str | None:
    """Why a run of it would be refused before training; None if it would not."""
    try:
        check_config(config_of(combination))
    except UserError as error:
        return str(error)
    return None


def table(refusals: Mapping[Combination, str | None]) -> list[str]:
    """Lines of a Markdown table whose cells are the objectives that train, and why others do not.

    Of reasons that differ in the options alone, the first is said.
    """
    rules, advantages = (list(dict.fromkeys(c[place] for c in refusals)) for place in (0, 1))
    accepted: dict[tuple[str, str], list[str]] = {}
    reasons: dict[str, str] = {}
    for combination, reason in refusals.items():
        cell = accepted.setdefault(combination[:2], [])
        if reason is None:
            cell.append(combination.objective)
        else:
            kind = reason
            for group, option in combination._asdict().items():
                kind = kind.replace(f"{group}={option}", group)
            reasons.setdefault(kind, reason)
    rows = [
        (f"`{rule}`", *(", ".join(accepted[rule, advantage]) or "-" for advantage in advantages))
        for rule in rules
    ]
    head = ("aggregation \\ advantage", *(f"`{advantage}`" for advantage in advantages))
    return [*markdown_table(head, rows), "", *(f"- {reason}" for reason in reasons.values())]


def main() -> None:
    """Print the table, or put it into a file between its marks."""
    parser = command_parser("recipe.config.combinations", __doc__)
    add_into(parser, "combinations")
    given = parser.parse_args()
    lines = table({combination: refusal(combination) for combination in combinations()})
    with errors_reported():
        show_table(lines, "combinations", given.into)


if __name__ == "__main__":
    main()
