"""What rules are compared by: the paper's table, differences to a baseline, drops at the end."""

from collections.abc import Sequence

from eval.published import RULES as PUBLISHED_RULES
from eval.published import Published
from eval.stats import holm
from eval.tables.cells import compare, drop, measure, row_notes
from eval.tables.grid import Row, model_settings
from eval.tables.numbers import mean_cell, probability, record, with_interval, with_remarks
from eval.tables.printed import Cell, Record, Table, plain
from recipe.maths.rules import RULES

METHOD = (
    "Intervals are 95 %, over seeds and problems, both random (eval/stats.py: paired_interval); "
    "tasks are given and weigh the same."
)
PROBABILITIES = ("P(better)", "p", "p (Holm)")


def average_table(rows: Sequence[Row], paper: Published) -> Table:
    """The paper's table 1: experiments by rules, averages over tasks at the last step."""
    name, quantity = "average", "mean@k, %"
    found = {rule for row in rows for rule in row.rules}
    rules = [rule for rule in RULES if rule in found] + sorted(found - set(RULES))
    beside = [rule for rule in PUBLISHED_RULES if any(r.name in paper.numbers for r in rows)]
    lines, records, remarks = [], [], [METHOD]
    for row in rows:
        about = row_notes(row)
        line = [Cell(row.name, about), Cell(str(row.last_step))]
        for rule in rules:
            if rule not in row.rules:
                line.append(Cell("-", (f"no results of {row.name}, {rule}",)))
                continue
            measured = measure(row, rule)
            line.append(mean_cell(measured))
            records.append(record(name, quantity, row, rule, row.tasks, measured, about))
        for rule in beside:
            # A row with overrides has a name of its own, and is not what was published.
            value = paper.numbers.get(row.name, {}).get(rule)
            line.append(Cell("-" if value is None else f"{100 * value:.2f}"))
            if value is not None:
                records.append(
                    Record(
                        "published",
                        f"{paper.quantity}, %",
                        row.name,
                        rule,
                        " ".join(paper.tasks),
                        None,
                        100 * value,
                        None,
                        None,
                        None,
                        f"{paper.source}, {paper.read}",
                    )
                )
        lines.append(tuple(line))
    remarks += model_settings(rows)
    if beside:
        remarks.append(published_remark(rows[0].tasks, paper))
    head = [*plain(("experiment", "step", *rules))]
    head += plain([f"published {rule} {paper.origin}" for rule in beside])
    return with_remarks(
        Table(
            name,
            f"{over(rows[0].tasks)} at the last step: mean@k in percent [95 % interval] (seeds)",
            tuple(head),
            tuple(lines),
            tuple(records),
            tuple(remarks),
        )
    )


def published_remark(tasks: Sequence[str], paper: Published) -> str:
    """What keeps published numbers from being compared with measured ones."""
    remark = f"Published: {paper.quantity}, {paper.source}. {' '.join(paper.how.split())}"
    if set(tasks) != set(paper.tasks):
        remark += f" They average {', '.join(paper.tasks)}, other tasks than this table's."
    return remark


def difference_table(rows: Sequence[Row], baseline: str) -> Table:
    """Every rule against the baseline, within its experiment."""
    name = "difference"
    pairs, remarks = [], [METHOD]
    for row in rows:
        if baseline in row.rules:
            pairs += [
                (row, rule, compare(row, rule, baseline)) for rule in row.rules if rule != baseline
            ]
        else:
            remarks.append(f"{row.name} has no results of {baseline}: nothing is compared there.")
    known = [m.interval for *_, m in pairs if m.interval and m.varies]
    adjusted = dict(zip(map(id, known), holm([found.p_value for found in known]), strict=True))
    lines, records = [], []
    for row, rule, measured in pairs:
        label = f"{rule} - {baseline}"
        numbers = [Cell("-", measured.notes), *plain("----")]
        found = measured.interval
        values: dict[str, float | None] = dict.fromkeys(PROBABILITIES)
        if found and id(found) in adjusted:
            known_of = (found.probability_positive, found.p_value, adjusted[id(found)])
            values = dict(zip(PROBABILITIES, known_of, strict=True))
        if found:
            numbers = [
                Cell(with_interval(found, "+.1f"), measured.notes),
                *plain((str(found.num_seeds), *map(probability, values.values()))),
            ]
        lines.append((*plain((row.name, label, str(row.last_step))), *numbers))
        records.append(record(name, "difference, points", row, label, row.tasks, measured))
        records += [
            records[-1]._replace(quantity=key, estimate=value, low=None, high=None)
            for key, value in values.items()
        ]
    count = len(known)
    if count == 1:
        remarks.append(f"1 comparison with {baseline}, so Holm's p is p.")
    elif count:
        remarks.append(
            f"{count} comparisons with {baseline}: intervals, P(better) and p are each as if it "
            f"were the only one, and one of {count} is easily wrong. Holm's p is adjusted: if no "
            f"rule differed, some p of the {count} would be below x in at most x of cases."
        )
    remarks.append(
        "Runs of the same seed are paired. P(better), and p of two sides, come of the same "
        "distribution as the interval."
    )
    return with_remarks(
        Table(
            name,
            f"{over(rows[0].tasks)} at the last step, difference to {baseline}: points "
            f"[95 % interval]",
            plain(("experiment", "comparison", "step", "points", "seeds", *PROBABILITIES)),
            tuple(lines),
            tuple(records),
            tuple(remarks),
        )
    )


def over(tasks: Sequence[str]) -> str:
    """What a number is of."""
    return tasks[0] if len(tasks) == 1 else f"Average of {', '.join(tasks)}"


def stability_table(rows: Sequence[Row]) -> Table:
    """The best evaluated step, the last, and the drop between them; rows of several steps."""
    name = "stability"
    lines, records = [], []
    for row in rows:
        if len(row.steps) < 2:
            continue
        for rule in row.rules:
            found = drop(row, rule)
            crossed = found.crossed.interval
            entry = record(
                name, "best - last, crossed, points", row, rule, row.tasks, found.crossed
            )
            labels = plain((row.name, rule, str(len(row.steps))))
            records.append(entry)
            if found.best is None or found.last is None or crossed is None:
                lines.append((*labels, Cell("-", found.crossed.notes), *plain("-----")))
                continue
            cells = [
                f"{100 * found.best:.1f}",
                f"{100 * found.last:.1f}",
                f"{100 * (found.best - found.last):.1f}",
            ]
            lines.append(
                (
                    *labels,
                    *plain((" ".join(map(str, found.steps)), *cells)),
                    Cell(with_interval(crossed, "+.1f"), found.crossed.notes),
                    Cell(str(crossed.num_seeds)),
                )
            )
            records += [
                entry._replace(quantity=quantity, estimate=100 * value, low=None, high=None)
                for quantity, value in (
                    ("best, %", found.best),
                    ("last, %", found.last),
                    ("best - last, points", found.best - found.last),
                )
            ]
            records += [
                entry._replace(
                    quantity=f"best step of seed {seed}",
                    estimate=step,
                    low=None,
                    high=None,
                    seeds=1,
                )
                for seed, step in zip(row.seeds(rule), found.steps, strict=True)
            ]
    remarks = [METHOD] if lines else []
    short = [row.name for row in rows if len(row.steps) < 2]
    if lines:
        remarks.append(
            "Best, last and best - last are means over seeds, each seed with its own best step. "
            "The best of several noisy means is too high, and so is best - last; it is never "
            "below 0 and has no interval here."
        )
        remarks.append(
            "Crossed: each tenth of the problems is judged at the step that is best on the other "
            "nine. Noise of the choice no longer counts as a drop; it may be negative, is rather "
            "too low, and its interval is rough where different steps are chosen."
        )
    if short:
        remarks.append(f"Evaluated at one step alone, so without a drop: {', '.join(short)}.")
    return with_remarks(
        Table(
            name,
            f"{over(rows[0].tasks)}, best and last step: mean@k in percent, drops in points",
            plain(
                (
                    "experiment",
                    "rule",
                    "steps",
                    "best step, by seed",
                    "best",
                    "last",
                    "best - last",
                    "crossed [95 % interval]",
                    "seeds",
                )
            ),
            tuple(lines),
            tuple(records),
            tuple(remarks),
        )
    )
