"""Tables in Markdown, printed or kept between two marks of a document."""

import re
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns also line up in a terminal; all but the first stand right."""
    lines = [head, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    cells = [
        [row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))]
        for row in (head, rule, *lines[1:])
    ]
    return ["| " + " | ".join(line) + " |" for line in cells]


def between_marks(document: str, name: str, lines: Iterable[str]) -> str:
    """`document` with what stands between its marks replaced by `lines`.

    The marks are `<!-- NAME:begin ... -->`, with any remark, and `<!-- NAME:end -->`.

    Raises:
        ValueError: they are not there, once and in this order.
    """
    marks = re.compile(rf"(<!-- {name}:begin[^>]*-->\n)(?:.*\n)*?(<!-- {name}:end -->)")
    new, found = marks.subn(lambda m: m[1] + "".join(f"{x}\n" for x in lines) + m[2], document)
    if found != 1:
        raise ValueError(
            f"the document has no marks <!-- {name}:begin --> and <!-- {name}:end --> on lines of "
            f"their own, or has them twice; put them once where the table goes."
        )
    return new
