"""How measured numbers are written: in cells of a table, and in records of its CSV."""

from collections.abc import Sequence
from dataclasses import replace

from eval.stats import Interval
from eval.tables.cells import Measured
from eval.tables.grid import Row
from eval.tables.printed import Cell, Record, Table

INCOMPLETE = (
    "A dash is no number: a cell is not averaged over those results that happen to be there. "
    "Evaluate what is missing, choose among the tasks with --tasks, or move a seed's results away."
)


def with_remarks(table: Table) -> Table:
    """The table, with a word on dashes if it has any for missing results."""
    notes = [note for line in table.rows for cell in line for note in cell.notes]
    if not any(note.startswith(("missing: ", "no results of ")) for note in notes):
        return table
    return replace(table, remarks=(*table.remarks, INCOMPLETE))


def mean_cell(measured: Measured, is_run: bool = True) -> Cell:
    """`71.2 [69.0, 73.4] (3)`, of a model that is no run without seeds."""
    found = measured.interval
    if found is None:
        return Cell("-", measured.notes)
    seeds = f" ({found.num_seeds})" if is_run else ""
    return Cell(with_interval(found, ".1f") + seeds, measured.notes)


def with_interval(found: Interval, form: str) -> str:
    """A number in percent or points with its interval, if there is one."""
    estimate, low, high = (f"{100 * x:{form}}" for x in found[:3])
    return f"{estimate} [{low}, {high}]" if found.low < found.high else estimate


def probability(value: float | None) -> str:
    """Three decimals, or that it is smaller; a dash if it is not known."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def record(
    table: str,
    quantity: str,
    row: Row,
    rule: str,
    tasks: Sequence[str],
    measured: Measured,
    about: Sequence[str] = (),
) -> Record:
    """A measured number for the CSV; accuracies in percent, differences in points."""
    found = measured.interval
    estimate, low, high = (100 * x for x in found[:3]) if found else (None, None, None)
    if not measured.varies:
        low = high = None
    is_run = row.experiment is not None
    return Record(
        table,
        quantity,
        row.name,
        rule,
        " ".join(tasks),
        row.last_step if is_run else None,
        estimate,
        low,
        high,
        found.num_seeds if found and is_run else None,
        "; ".join([*measured.notes, *about]),
    )
