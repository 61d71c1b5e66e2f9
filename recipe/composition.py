"""List verl's policy losses, and say of each whether it takes every aggregation rule.

    python -m recipe.composition [--into FILE]

`recipe/objectives/losses/weightable.py` tries them.
"""

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.objectives.losses.weightable import table


def main() -> None:
    """Print the table, or put it into a file between its marks."""
    parser = command_parser("recipe.composition", __doc__)
    add_into(parser, "losses")
    with errors_reported():
        show_table(table(), "losses", parser.parse_args().into)


if __name__ == "__main__":
    main()
