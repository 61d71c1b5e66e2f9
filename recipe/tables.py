"""Tables in Markdown, printed or kept between two marks of a document."""

import re
from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is text, the others stand right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


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
