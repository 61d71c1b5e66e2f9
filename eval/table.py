"""Tables and pictures of evaluations: rules side by side, with intervals and what is missing.

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
from eval.tables.by_rule import average_table, difference_table, stability_table
from eval.tables.by_task import task_table, tasks_table
from eval.tables.figures import write_figures
from eval.tables.grid import Row, arrange
from eval.tables.printed import Table, as_csv, latex, markdown
from eval.tables.results import read_results
from recipe.base.provenance import provenance
from recipe.base.tables import between_marks


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    description, _, examples = (__doc__ or "").partition("\n\n")
    command = argparse.ArgumentParser(
        "python -m eval.table",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("folder", nargs="+", type=Path, help="where to look for results of python -m eval.run")
    add("--tasks", metavar="A,B,...", help="the tasks that are averaged (all that there are)")
    add("--baseline", default="token", metavar="RULE", help="what rules are compared with (token)")
    add("--out", type=Path, metavar="DIR", help="where to write tables and figures")
    add("--into", type=Path, help="a document with marks evaluation:begin and end, for Markdown")
    add("--format", choices=list(FORMATS), default="markdown", help="of what is printed (markdown)")
    return command


def tables(rows: Sequence[Row], baseline: str) -> list[Table]:
    """All tables of these rows.

    Raises:
        ValueError: no run was trained with the baseline's rule, though some could be compared.
    """
    runs = [row for row in rows if row.experiment is not None]
    known = sorted({rule for row in runs for rule in row.rules})
    if len(known) > 1 and baseline not in known:
        raise ValueError(
            f"no result is of {baseline}, the rule that others are compared with; there are "
            f"{', '.join(known)}. Choose one of these with --baseline."
        )
    made = []
    if runs:
        made += [average_table(runs, published())]
        if len(known) > 1:
            made.append(difference_table(runs, baseline))
        made.append(stability_table(runs))
    tasks = rows[0].tasks
    if len(tasks) > 1:
        made.append(tasks_table(rows))
    return made + [task_table(rows, task) for task in tasks]


def as_markdown(made: Sequence[Table]) -> str:
    """Tables one below the other; what is said of several is said once."""
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
    """Tables that a document includes, one after the other."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(latex, made))


FORMATS = {"markdown": (as_markdown, "md"), "latex": (as_latex, "tex"), "csv": (as_csv, "csv")}


def run(arguments: argparse.Namespace) -> None:
    """Read, print, write.

    Raises:
        ValueError: the results or an argument cannot be used.
        OSError: a file cannot be read or written.
    """
    tasks = [task for task in (arguments.tasks or "").split(",") if task]
    rows = arrange(read_results(arguments.folder), tasks)
    made = tables(rows, arguments.baseline)
    sys.stdout.write(FORMATS[arguments.format][0](made))
    if arguments.into:
        lines = as_markdown(made).splitlines()
        document = between_marks(arguments.into.read_text(), "evaluation", lines)
        arguments.into.write_text(document)
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
    # What is printed may be read by a program: the rest goes beside it.
    for line in left_out:
        print(line, file=sys.stderr)
    for path in [*written, *(path for path, _ in pictures)]:
        print(f"wrote {path}", file=sys.stderr)


def main() -> None:
    """`run`, with what is wrong said in one paragraph."""
    arguments = parser().parse_args()
    try:
        run(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
