"""Make Markdown tables, and replace a table between two marks of a document."""

import re
from collections.abc import Iterable, Sequence

# A cell in a column of numbers. A dash, perhaps with footnote marks, is a missing number.
NUMBER = re.compile(r"[-+<]?\.?\d|-(\^[a-z,]+)?$")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns; numbers are aligned to the right."""
    columns = []
    for name, *cells in zip(head, *rows, strict=True):
        width = max(3, len(name), *map(len, cells))
        if all(NUMBER.match(cell) for cell in cells):
            columns.append([x.rjust(width) for x in (name, "-" * (width - 1) + ":", *cells)])
        else:
            columns.append([x.ljust(width) for x in (name, "-" * width, *cells)])
    return ["| " + " | ".join(line) + " |" for line in zip(*columns, strict=True)]


def between_marks(document: str, name: str, lines: Iterable[str]) -> str:
    """Return `document` with the text between its marks replaced by `lines`.

    The marks are `<!-- NAME:begin ... -->`, with an optional remark, and `<!-- NAME:end -->`.

    Raises:
        ValueError: the document does not contain both marks exactly once, in this order.
    """
    marks = re.compile(rf"(<!-- {name}:begin[^>]*-->\n)(?:.*\n)*?(<!-- {name}:end -->)")
    new, found = marks.subn(lambda m: m[1] + "".join(f"{x}\n" for x in lines) + m[2], document)
    if found != 1:
        raise ValueError(
            f"the document has no marks <!-- {name}:begin --> and <!-- {name}:end --> on lines of "
            f"their own, or has them twice; put them once where the table goes."
        )
    return new
