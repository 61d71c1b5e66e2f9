"""Make tables and figures of evaluations: methods side by side, with intervals.

    python -m eval.table outputs
    python -m eval.table FOLDER... --tasks math500,aime24 --baseline token --out outputs/tables

Prints the paper's table (averages over tasks at the last step), differences to the baseline, drops
from the best step to the last, and each task. --out also writes table.md, table.tex, table.csv and
the figures.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.published import published
from eval.tables.figures import write_figures
from eval.tables.grid import TableRow, arrange
from eval.tables.layout import (
    average_table,
    difference_table,
    stability_table,
    task_table,
    tasks_table,
)
from eval.tables.measurements import measurements
from eval.tables.printed import Table, as_csv, latex, markdown
from eval.tables.results import read_results
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.provenance import provenance


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    command = command_parser("eval.table", __doc__)
    add = command.add_argument
    add("folder", nargs="+", type=Path, help="folders with results of python -m eval.run")
    add("--tasks", metavar="A,B,...", help="the tasks to average (all)")
    add(
        "--baseline",
        default="token",
        metavar="METHOD",
        help="the method that others are compared with (token)",
    )
    add("--out", type=Path, metavar="DIR", help="where to write tables and figures")
    add_into(command, "evaluation")
    add(
        "--format",
        choices=list(FORMATS),
        default="markdown",
        help="format of the output (markdown)",
    )
    return command


def tables(rows: Sequence[TableRow], baseline: str) -> list[Table]:
    """Return all tables of these rows.

    Raises:
        ValueError: there are several methods, and none of them is the baseline.
    """
    runs = [row for row in rows if row.experiment is not None]
    known = sorted({method for row in runs for method in row.methods})
    if len(known) > 1 and baseline not in known:
        raise ValueError(
            f"no result is of {baseline}, the method that others are compared with; there are "
            f"{', '.join(known)}. Choose one of these with --baseline."
        )
    paper = published()
    frame, tasks = measurements(rows, baseline, paper), rows[0].tasks
    made = []
    if runs:
        made.append(average_table(frame, rows, paper))
        if len(known) > 1:
            made.append(difference_table(frame, rows, baseline))
        made.append(stability_table(frame, rows))
    if len(tasks) > 1:
        made.append(tasks_table(frame, rows))
    return made + [task_table(frame, rows, task) for task in tasks]


def as_markdown(made: Sequence[Table]) -> str:
    """Return tables one below the other; a remark on several is printed once."""
    said: set[str] = set()
    parts = []
    for table in made:
        parts.append(
            markdown(
                replace(table, remarks=tuple(line for line in table.remarks if line not in said))
            )
        )
        said |= set(table.remarks)
    return "\n".join(parts)


def as_latex(made: Sequence[Table]) -> str:
    """Return tables for a LaTeX document to include."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(latex, made))


FORMATS = {"markdown": (as_markdown, "md"), "latex": (as_latex, "tex"), "csv": (as_csv, "csv")}


def run(arguments: argparse.Namespace) -> None:
    """Read the results, print the tables, and write the files that were asked for.

    Raises:
        ValueError: a result or an argument is not allowed.
        OSError: a file cannot be read or written.
    """
    tasks = [task for task in (arguments.tasks or "").split(",") if task]
    rows = arrange(read_results(arguments.folder), tasks)
    made = tables(rows, arguments.baseline)
    sys.stdout.write(FORMATS[arguments.format][0](made))
    if arguments.into:
        show_table(as_markdown(made).splitlines(), "evaluation", arguments.into)
    if not arguments.out:
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    pictures, left_out = write_figures(arguments.out, rows, arguments.baseline)
    written = []
    for form, ending in FORMATS.values():
        written.append(arguments.out / f"table.{ending}")
        text = form(made)
        if ending == "md":
            origin = provenance("eval.table")
            text += "".join(f"\n![{path.stem}]({path.name})\n\n{said}\n" for path, said in pictures)
            text += f"\nCommit {origin['commit']}; `{origin['command']}`.\n"
        written[-1].write_text(text)
    # A program may read the standard output, so messages go to the standard error.
    for line in left_out:
        print(line, file=sys.stderr)
    for path in [*written, *(path for path, _ in pictures)]:
        print(f"wrote {path}", file=sys.stderr)


def main() -> None:
    """Run the command, and print an error as one paragraph."""
    arguments = parser().parse_args()
    with errors_reported(OSError, ValueError):
        run(arguments)


if __name__ == "__main__":
    main()
