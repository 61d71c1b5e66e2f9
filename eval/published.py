"""Print published numbers with their source and how they were read.

python -m eval.published                     # print the table
python -m eval.published --into README.md    # write it between its marks there
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.tables import markdown_table

FILE = Path(__file__).with_suffix(".yaml")
RULES = ("sequence", "token", "balanced")


@dataclass(frozen=True)
class Published:
    """Numbers of a paper's table."""

    source: str
    read: str
    how: str
    quantity: str
    tasks: tuple[str, ...]
    labels: dict[str, str]
    """The label of each experiment."""
    numbers: dict[str, dict[str, float]]
    """The number of each rule in each experiment, from 0 to 1."""

    @property
    def origin(self) -> str:
        """Return the source and how it was read, in brackets."""
        return f"({self.source}, {self.read})"


def published(path: Path = FILE) -> Published:
    """Return the numbers of the paper that this project reproduces."""
    paper = yaml.safe_load(path.read_text())["paper"]
    numbers = paper.pop("numbers")
    labels = {name: cell.pop("label") for name, cell in numbers.items()}
    paper["tasks"] = tuple(paper["tasks"])
    return Published(**paper, labels=labels, numbers=numbers)


def table() -> list[str]:
    """Return the paper's table in lines of Markdown, with numbers as in the paper."""
    paper = published()
    rows = [
        (paper.labels[name], *(f"{cell[rule]:.4f}".lstrip("0") for rule in RULES))
        for name, cell in paper.numbers.items()
    ]
    return markdown_table((f"{paper.quantity} {paper.origin}", *RULES), rows)


def main() -> None:
    """Print the table, or write it into a document."""
    parser = command_parser("eval.published", __doc__)
    add_into(parser, "published")
    with errors_reported():
        show_table(table(), "published", parser.parse_args().into)


if __name__ == "__main__":
    main()
