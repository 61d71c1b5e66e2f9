"""Lay the measurements out as tables: methods side by side, against the baseline, by task."""

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from eval.published import RULES as PUBLISHED_RULES
from eval.published import Published
from eval.tables.estimates import row_notes
from eval.tables.grid import TableRow, model_settings, ordered, sampling_settings
from eval.tables.measurements import CROSSED, DIFFERENCE, LENGTHS, PROBABILITIES, RATES
from eval.tables.printed import Cell, Table, plain

INTERVALS = (
    "Intervals are 95 %, over seeds and problems, both random (eval/stats.py: paired_interval). "
    "Tasks are fixed and have equal weight."
)
INCOMPLETE = (
    "A dash means that results are missing. No cell averages only the results that happen to "
    "exist. Evaluate what is missing, choose among the tasks with --tasks, or move a seed's "
    "results away."
)
LABELS = ["experiment", "method", "step"]
TASK_COLUMNS = ["mean@k", "k", "pass@k", "maj@k", *RATES.values(), *LENGTHS.values()]
COMPARED = {"points": DIFFERENCE, "seeds": "seeds", **{name: name for name in PROBABILITIES}}
DROPS = {
    "best step, by seed": "steps",
    "best": "best, %",
    "last": "last, %",
    "best - last": "best - last, points",
    "crossed [95 % interval]": CROSSED,
    "seeds": "seeds",
}


def only(frame: pd.DataFrame, is_line: Any) -> pd.DataFrame:
    """Return the lines of a frame where `is_line` is true."""
    return cast(pd.DataFrame, frame[is_line])


def average_table(frame: pd.DataFrame, rows: Sequence[TableRow], paper: Published) -> Table:
    """Lay out the paper's table 1: averages over tasks, an experiment a line, a method a column."""
    own = only(frame, frame.table.isin(["average", "published"]))
    runs = [row for row in rows if row.experiment is not None]
    methods = ordered({method for row in runs for method in row.methods})
    is_published = own.table == "published"
    beside = [f"published {rule} {paper.origin}" for rule in PUBLISHED_RULES if is_published.any()]
    named = own.method.mask(is_published, "published " + own.method + f" {paper.origin}")
    columns = [*methods, *beside]
    wide = spread(with_column(own, named), ["experiment"], columns)
    lines = []
    for row, cells in zip(runs, wide, strict=True):
        found = dict(zip(columns, cells[1:], strict=True))
        for method in set(methods) - set(row.methods):
            found[method] = Cell("-", (f"no results of {row.name}, {method}",))
        label = Cell(row.name, row_notes(row))
        lines.append((label, Cell(str(row.last_step)), *(found[name] for name in columns)))
    remarks = [INTERVALS, *model_settings(runs)]
    if beside:
        remarks.append(
            f"Published: {paper.quantity}, {paper.source}. {' '.join(paper.how.split())}"
        )
        if set(rows[0].tasks) != set(paper.tasks):
            remarks[-1] += f" They average {', '.join(paper.tasks)}, not this table's tasks."
    caption = f"{average_of(rows)} at the last step: mean@k in percent [95 % interval] (seeds)"
    return table("average", caption, ["experiment", "step", *columns], lines, own, remarks)


def difference_table(frame: pd.DataFrame, rows: Sequence[TableRow], baseline: str) -> Table:
    """Lay out every method's difference to the baseline, within its experiment."""
    own = only(frame, frame.table == "difference")
    main = only(own, own.quantity == DIFFERENCE)
    cells = pd.concat([with_column(own, own.quantity), seeds_of(main)])
    lines = spread(cells, LABELS, list(COMPARED.values()))
    remarks = [INTERVALS] + [
        f"{row.name} has no results of {baseline}: nothing is compared there."
        for row in rows
        if row.experiment is not None and baseline not in row.methods
    ]
    count = int(only(own, own.quantity == "p").estimate.count())
    if count == 1:
        remarks.append(f"There is 1 comparison with {baseline}, so Holm's p equals p.")
    elif count:
        remarks.append(
            f"There are {count} comparisons with {baseline}. Each interval, P(better) and p "
            f"ignores the other comparisons, so one of {count} is easily wrong. Holm's p is "
            f"adjusted: if no method differed, some p of the {count} would be below x in at most "
            f"x of cases."
        )
    remarks.append(
        "Runs of the same seed are paired. P(better) and the two-sided p come from the same "
        "distribution as the interval."
    )
    caption = (
        f"{average_of(rows)} at the last step, difference to {baseline}: points [95 % interval]"
    )
    head = ["experiment", "comparison", "step", *COMPARED]
    return table("difference", caption, head, lines, own, remarks)


def stability_table(frame: pd.DataFrame, rows: Sequence[TableRow]) -> Table:
    """Lay out the best evaluated step, the last one, and the drop between them."""
    own = only(frame, frame.table == "stability")
    is_step = own.quantity.str.startswith("best step of seed")
    main = only(own, own.quantity == CROSSED)
    chosen = only(own, is_step).groupby(["experiment", "method"], sort=False).estimate
    steps = chosen.agg(lambda found: " ".join(f"{step:.0f}" for step in found))
    picked = main.assign(
        column="steps",
        cell=[Cell(steps.get(key, "-")) for key in zip(main.experiment, main.method, strict=True)],
    )
    cells = pd.concat([with_column(only(own, ~is_step), own.quantity), picked, seeds_of(main)])
    counts = {row.name: str(len(row.steps)) for row in rows}
    lines = [
        (experiment, method, Cell(counts[experiment.text]), *found)
        for experiment, method, *found in spread(cells, LABELS[:2], list(DROPS.values()))
    ]
    remarks = [INTERVALS] if lines else []
    if lines:
        remarks.append(
            "Best, last and best - last are means over seeds, where each seed has its own best "
            "step. The best of several noisy means is too high, and so is best - last. It is "
            "never below 0 and has no interval here."
        )
        remarks.append(
            "Crossed: each tenth of the problems is scored at the step that is best on the other "
            "nine tenths. Noise in this choice then no longer counts as a drop. The value may be "
            "negative, is rather too low, and its interval is rough where folds choose different "
            "steps."
        )
    short = [row.name for row in rows if row.experiment is not None and len(row.steps) < 2]
    if short:
        remarks.append(f"Evaluated at one step only, so without a drop: {', '.join(short)}.")
    caption = f"{average_of(rows)}, best and last step: mean@k in percent, drops in points"
    return table(
        "stability", caption, ["experiment", "method", "steps", *DROPS], lines, own, remarks
    )


def tasks_table(frame: pd.DataFrame, rows: Sequence[TableRow]) -> Table:
    """Lay out every method's mean on each task, and their average."""
    own, tasks = only(frame, frame.table == "tasks"), rows[0].tasks
    lines = spread(with_column(own, own.task), LABELS, [*tasks, " ".join(tasks)])
    caption = "Every task at the last step: mean@k in percent [95 % interval] (seeds)"
    head = ["experiment or model", "method", "step", *tasks, "average"]
    remarks = [INTERVALS, other_models(rows), *model_settings(rows)]
    return table("tasks", caption, head, lines, own, remarks)


def task_table(frame: pd.DataFrame, rows: Sequence[TableRow], task: str) -> Table:
    """Lay out one task: means, results of k samples, and how responses end."""
    own = only(frame, frame.table == f"task {task}")
    names = own.quantity.str.replace(r"^(mean|pass|maj)@.*", r"\1@k", regex=True)
    cells = with_column(own, names)
    main = only(own, own.quantity.str.match(r"mean@\d"))
    samples = main.quantity.str.extract(r"@(\d+)", expand=False)
    counts = main.assign(column="k", cell=[Cell(k) for k in samples])
    # The k of the votes is shown where it is not the number of samples.
    votes = own.quantity.str.extract(r"^maj@(\d+)", expand=False)
    cells["cell"] = [
        Cell(f"{cell.text} (k = {k})") if isinstance(k, str) and k not in set(samples) else cell
        for cell, k in zip(cells.cell, votes, strict=True)
    ]
    lines = spread(pd.concat([cells, counts]), LABELS, TASK_COLUMNS)
    caption = f"{task} at the last step: mean@k in percent [95 % interval] (seeds)"
    remarks = [
        INTERVALS,
        other_models(rows),
        "k is the number of samples of a problem. pass@k: at least one of them is correct. maj@k: "
        "their most frequent answer is correct (no interval). Rates are shares of all samples. "
        "Tokens are mean lengths of correct and incorrect responses. All are means over seeds.",
        *model_settings(rows),
        *sampling_settings(rows, task),
    ]
    head = ["experiment or model", "method", "step", *TASK_COLUMNS]
    return table(f"task {task}", caption, head, lines, own, remarks)


def shown(number: Any) -> Cell:
    """Write a line of the frame as its table shows it, with its interval and footnotes."""
    value, quantity = number.estimate, number.quantity
    is_difference = quantity in (DIFFERENCE, CROSSED)
    notes = number.footnotes if is_difference or quantity.startswith("mean@") else ()
    if pd.isna(value):
        return Cell("-", notes)
    if quantity in PROBABILITIES:
        return Cell(f"{value:.3f}" if value >= 0.001 else "<0.001")
    form = ".2f" if number.table == "published" else ".0f" if quantity.endswith("tokens") else ".1f"
    form = f"+{form}" if is_difference else form
    text = f"{value:{form}}"
    if number.low < number.high:
        text += f" [{number.low:{form}}, {number.high:{form}}]"
    if quantity.startswith("mean@") and pd.notna(number.seeds):
        text += f" ({number.seeds})"
    return Cell(text, notes)


def with_column(own: pd.DataFrame, column: pd.Series) -> pd.DataFrame:
    """Return the lines with the cell that shows each, and the column that it stands in."""
    return own.assign(column=column, cell=[shown(number) for number in own.itertuples()])


def seeds_of(main: pd.DataFrame) -> pd.DataFrame:
    """Return lines for a column of the number of seeds."""
    cells = [Cell("-" if pd.isna(seeds) else str(seeds)) for seeds in main.seeds]
    return main.assign(column="seeds", cell=cells)


def spread(own: pd.DataFrame, labels: list[str], columns: list[str]) -> list[tuple[Cell, ...]]:
    """Pivot measurements to lines of cells: labels, then columns; a dash where there is none."""
    if own.empty:
        return []
    own = own.assign(step=["-" if pd.isna(step) else str(step) for step in own.step])
    wide = own.pivot(index=labels, columns="column", values="cell")
    order = own[labels].drop_duplicates().set_index(labels).index
    wide = wide.reindex(index=order, columns=columns)
    return [
        (
            *plain(names if isinstance(names, tuple) else (names,)),
            *(cell if isinstance(cell, Cell) else Cell("-") for cell in cells),
        )
        for names, cells in zip(wide.index, wide.to_numpy(), strict=True)
    ]


def table(
    name: str,
    caption: str,
    head: Sequence[str],
    lines: Sequence[tuple[Cell, ...]],
    own: pd.DataFrame,
    remarks: list[str],
) -> Table:
    """Return the table, with a remark on dashes if results are missing."""
    notes = [note for line in lines for cell in line for note in cell.notes]
    if any(note.startswith(("missing: ", "no results of ")) for note in notes):
        remarks.append(INCOMPLETE)
    return Table(name, caption, plain(head), tuple(lines), own, tuple(remarks))


def average_of(rows: Sequence[TableRow]) -> str:
    """Return the beginning of a caption: the task, or the tasks that are averaged."""
    tasks = rows[0].tasks
    return tasks[0] if len(tasks) == 1 else f"Average of {', '.join(tasks)}"


def other_models(rows: Sequence[TableRow]) -> str:
    """Return the remark on lines that are not of this project's runs."""
    models = [row.name for row in rows if row.experiment is None]
    if not models:
        return "Every line is of runs of this project."
    return f"Not runs of this project, with intervals over problems only: {', '.join(models)}."
