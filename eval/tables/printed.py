"""Print tables with footnotes as Markdown that lines up, as LaTeX, and as CSV in long form."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from recipe.base.tables import NUMBER, markdown_table

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
MINUS = re.compile(r"(?<![\w\]})/.-])-(?=\d)|(?<= )-(?= )")


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the footnotes that it is marked with."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it is printed, and the measurements behind it."""

    name: str
    caption: str
    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    measurements: pd.DataFrame
    remarks: tuple[str, ...] = ()
    """Printed below the table, about all of it."""


def marked(table: Table) -> tuple[list[list[tuple[str, str]]], dict[str, str]]:
    """Return every line's cells as text and mark (the head first), and the notes by mark."""
    marks: dict[str, str] = {}
    lines = []
    for cells in (table.head, *table.rows):
        lines.append([])
        for cell in cells:
            for note in cell.notes:
                marks.setdefault(note, letters(len(marks)))
            lines[-1].append((cell.text, ",".join(marks[note] for note in cell.notes)))
    return lines, {mark: note for note, mark in marks.items()}


def letters(number: int) -> str:
    """Return the letters a to z, then aa, ab, ..."""
    before, last = divmod(number, 26)
    return (letters(before - 1) if before else "") + chr(ord("a") + last)


def markdown(table: Table) -> str:
    """Return caption, table and notes."""
    lines, notes = marked(table)
    cells = [[text + f"^{mark}" * bool(mark) for text, mark in line] for line in lines]
    parts = [f"**{table.caption}**"]
    if table.rows:
        parts.append("\n".join(markdown_table(cells[0], cells[1:])))
    said = [*table.remarks, *(f"^{mark} {note}" for mark, note in notes.items())]
    if said:
        parts.append("\n".join(f"- {line}" for line in said))
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """Return a LaTeX table with its notes; a table without rows becomes a comment."""
    if not table.rows:
        return "".join(f"% {line}\n" for line in (table.caption, *table.remarks))
    lines, notes = marked(table)
    cells = [[escaped(text) + superscript(mark) for text, mark in line] for line in lines]
    columns = zip(*(line for line in lines[1:]), strict=True)
    numbers = [all(NUMBER.match(text) for text, _ in column) for column in columns]
    aligned = "".join("r" if number else "l" for number in numbers)
    # A group before the first cell: LaTeX would read a [ there as an option of the line above.
    head, *body = ["  {}" + " & ".join(line) + r" \\" for line in cells]
    said = [
        *map(escaped, table.remarks),
        *(f"{superscript(mark)} {escaped(note)}" for mark, note in notes.items()),
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escaped(table.caption)}}}",
            rf"  \label{{tab:{re.sub(r'[^a-z0-9]+', '-', table.name)}}}",
            rf"  \begin{{tabular}}{{{aligned}}}",
            *(
                f"  {line}"
                for line in (r"  \toprule", head, r"  \midrule", *body, r"  \bottomrule")
            ),
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {line}" for line in said),
            r"\end{table}",
            "",
        ]
    )


def escaped(text: str) -> str:
    """Return text escaped for LaTeX, with minus signs before numbers."""
    return MINUS.sub("$-$", "".join(LATEX.get(character, character) for character in text))


def superscript(mark: str) -> str:
    """Return the mark of a note in LaTeX."""
    return rf"\textsuperscript{{{mark}}}" if mark else ""


def as_csv(tables: Iterable[Table]) -> str:
    """Return the measurements of all tables under one head; an empty field is a missing number."""
    frame = pd.concat([table.measurements for table in tables])
    return frame.drop(columns="footnotes").to_csv(index=False, lineterminator="\n")


def plain(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Return cells without notes."""
    return tuple(Cell(text) for text in texts)
