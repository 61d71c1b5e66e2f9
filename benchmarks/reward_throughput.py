"""Measure responses of 2 KB graded per second, and what hanging answers cost.

    python -m benchmarks.reward_throughput measure                  # about 8 minutes
    python -m benchmarks.reward_throughput table --into README.md

Two worker processes beside the process that reads. `mix` is graded by this project and by
math-verify alone (on the whole response, in two processes, with its own timeouts) in turns, so that
both see the same machine.
"""

import json
import logging
import multiprocessing
import os
import platform
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.timing import SEED, median_with_interval, seconds
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from reward.grader import Grader, Row
from reward.math.equality import same
from reward.math.extract import extract
from reward.sources import ANY, DAPO, RewardSettings

RESULTS = Path(__file__).parent / "results" / "reward_throughput"
SETTINGS = RewardSettings(workers=2)
BYTES = 2000
# Two numbers of 356 million digits each, multiplied out in C.
HANGS = "(9999!)^{9999}-(9998!)^{9999}"
SENTENCE = (
    "We substitute $x = {}$ into the equation and find that the left side is "
    "$\\frac{{{}}}{{{}}} + \\sqrt{{{}}}$, which is not yet what was asked for. "
)


def kinds(n: int, m: int) -> dict[str, tuple[str, str, str]]:
    """Return, for each kind of answer, the ground truth, a correct form and an incorrect one."""
    return {
        "integer": (f"{n}", f"{n}", f"{n + m}"),
        "fraction": (rf"\frac{{{n}}}{{{m}}}", f"{2 * n}/{2 * m}", rf"\frac{{{n + 1}}}{{{m}}}"),
        "decimal": (f"{n}.5", rf"\frac{{{2 * n + 1}}}{{2}}", f"{n}.25"),
        "unit": (rf"{n} \text{{ cm}}", f"{n}", rf"{n} \text{{ km}}"),
        "radical": (rf"{m}\sqrt{{{n}}}", rf"\sqrt{{{m * m * n}}}", rf"\sqrt{{{m * n}}}"),
        "pi": (rf"\frac{{{n}\pi}}{{{m}}}", rf"\frac{{{n}}}{{{m}}}\pi", rf"\frac{{\pi}}{{{n}}}"),
        "polynomial": (f"(x+{n})(x-{m})", f"x^2 + {n - m}x - {n * m}", f"x^2 + {n + m}x - {n * m}"),
        "function": (
            rf"\frac{{1}}{{{m}}}\ln {n}",
            rf"\frac{{\ln {n}}}{{{m}}}",
            rf"\frac{{{m}}}{{\ln {n}}}",
        ),
        "interval": (rf"[{n}, \infty)", rf"x \ge {n}", rf"({n}, \infty)"),
        "tuple": (f"({n}, {m})", rf"\left({n}, {m}\right)", f"({m}, {n})"),
        "set": (f"{n}, {-m}", rf"\{{{-m}, {n}\}}", f"{n}"),
    }


# Counts per hundred responses; half of each kind are correct. `function` needs symbolic maths.
MIX = {
    "integer": 60,
    "fraction": 8,
    "decimal": 4,
    "unit": 4,
    "radical": 5,
    "pi": 3,
    "polynomial": 4,
    "function": 3,
    "interval": 2,
    "tuple": 4,
    "set": 3,
}


def reasoning(dice: random.Random) -> str:
    """Return about 2 KB of reasoning with formulas and without an answer."""
    text = ""
    while len(text) < BYTES - 60:
        text += SENTENCE.format(*(dice.randrange(2, 1000) for _ in range(4)))
    return text


def mixed(count: int, seed: int = SEED) -> list[Row]:
    """Return rows of the mix in random order, each with other numbers."""
    dice = random.Random(seed)
    names = [name for name, share in MIX.items() for _ in range(share)]
    rows = []
    for _ in range(count):
        n, m = dice.randrange(2, 500), dice.randrange(2, 50)
        truth, correct, incorrect = kinds(n, m)[dice.choice(names)]
        answer = correct if dice.random() < 0.5 else incorrect
        rows.append(Row(f"{reasoning(dice)}\n\nSo it is $\\boxed{{{answer}}}$.", truth, ANY))
    return rows


def integers(count: int, form: str) -> list[Row]:
    """Return rows whose answers are integers; every second answer is correct."""
    dice = random.Random(SEED)
    text = [reasoning(dice) for _ in range(100)]
    return [
        Row(f"{text[i % 100]}\n\n{form.format(i)}", str(i + i % 2), DAPO if form[0] == "A" else ANY)
        for i in range(count)
    ]


def grade(rows: list[Row]) -> Counter[str]:
    """Return the outcomes of rows, graded by a new grader."""
    with closing(Grader(SETTINGS)) as grader:
        return Counter(verdict.outcome for verdict in grader.grade_many(rows))


def math_verify_alone(row: tuple[str, str]) -> bool:
    """Return the verdict of math-verify alone, used as its README shows."""
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    return bool(verify(parse(f"${row[1]}$"), parse(row[0])))


def is_symbolic(row: Row) -> bool:
    """Return whether a row needs a worker process."""
    return same(extract(row.response, ANY.forms) or "", row.ground_truth) is None


def measure_integers(repetitions: int) -> dict[str, Any]:
    """Measure the rows per second of both forms of integers."""
    found = {}
    for name, form in (("answer_line", "Answer: {}"), ("boxed", "So it is $\\boxed{{{}}}$.")):
        rows = integers(40_000, form)
        rates = [len(rows) / seconds(partial(grade, rows)) for _ in range(repetitions)]
        found[name] = median_with_interval(rates)
    return found


def measure_mix(repetitions: int) -> dict[str, Any]:
    """Measure the rows per second of the mix, and the factor over math-verify, in turns."""
    rows = mixed(10_000)
    pairs = [(row.response, row.ground_truth) for row in rows]
    ours, theirs = [], []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        agreed = pool.map(math_verify_alone, pairs[:400], chunksize=8)  # also imports and warms up
        for _ in tqdm(range(repetitions), desc="mix"):
            ours.append(len(rows) / seconds(partial(grade, rows)))
            theirs.append(
                400 / seconds(partial(pool.map, math_verify_alone, pairs[:400], chunksize=8))
            )
    with closing(Grader(SETTINGS)) as grader:
        verdicts = list(grader.grade_many(rows))
    return {
        "mix_percent": MIX,
        "rows_per_second": median_with_interval(ours),
        "math_verify_rows_per_second": median_with_interval(theirs),
        "times_math_verify": median_with_interval(
            [a / b for a, b in zip(ours, theirs, strict=True)]
        ),
        "symbolic_share": sum(map(is_symbolic, rows)) / len(rows),
        "outcomes": Counter(verdict.outcome for verdict in verdicts),
        "math_verify_correct_of_400": sum(agreed),
        "ours_correct_of_400": sum(verdict.outcome == "correct" for verdict in verdicts[:400]),
    }


def measure_hanging() -> dict[str, Any]:
    """Measure the seconds for 2,000 rows of which 2 % hang, beside the deadlines alone."""
    rows = mixed(2000)
    hang = set(random.Random(SEED).sample(range(len(rows)), len(rows) // 50))
    stuck = [
        Row(f"\\boxed{{{HANGS}}}", "7", ANY) if i in hang else row for i, row in enumerate(rows)
    ]
    rest = seconds(partial(grade, [row for i, row in enumerate(rows) if i not in hang]))
    outcomes: list[Counter[str]] = []
    total = seconds(lambda: outcomes.append(grade(stuck)))
    deadlines = len(hang) * SETTINGS.deadline / SETTINGS.workers
    return {
        "rows": len(rows),
        "hanging": len(hang),
        "deadline_seconds": SETTINGS.deadline,
        "seconds": total,
        "rest_seconds": rest,
        "deadlines_seconds": deadlines,
        "over_deadlines": (total - rest) / deadlines,
        "outcomes": outcomes[0],
    }


def measure_memory(count: int, points: int = 10) -> dict[str, Any]:
    """Measure MiB of this process and its descendants at points along `count` rows."""
    this = psutil.Process()

    def now() -> float:
        group = [this, *this.children(recursive=True)]
        return sum(process.memory_info().rss for process in group) / 2**20

    def rows() -> Iterator[Row]:
        for part in range(count // 1000):
            yield from mixed(1000, seed=part)

    found: list[float] = []
    with closing(Grader(SETTINGS)) as grader:
        for number, _ in enumerate(tqdm(grader.grade_many(rows()), total=count, desc="memory"), 1):
            if number % (count // points) == 0:
                found.append(round(now(), 1))
    growth = found[-1] / statistics.median(found[1:4])
    return {"rows": count, "mib": found, "end_over_early": growth}


def table() -> list[str]:
    """Return the measured numbers beside their aims."""
    found = json.loads((RESULTS / "cpu.json").read_text())
    whole, mix, hang = found["integers"], found["mix"], found["hanging"]

    def interval(of: dict[str, float], form: str = ",.0f") -> str:
        return f"{of['median']:{form}} [{of['low']:{form}}, {of['high']:{form}}]"

    lines = [
        ("integers after `Answer:`, rows a second", interval(whole["answer_line"]), "20,000"),
        ("integers in `\\boxed{}`, rows a second", interval(whole["boxed"]), "20,000"),
        ("mix, rows a second", interval(mix["rows_per_second"]), ""),
        ("mix, math-verify alone", interval(mix["math_verify_rows_per_second"]), ""),
        ("mix, times math-verify alone", interval(mix["times_math_verify"], ".1f"), "5"),
        (
            f"{hang['rows']:,} rows, {hang['hanging']} of them hang: time beside the rest, over "
            f"{hang['hanging']} x {hang['deadline_seconds']:g} s / {SETTINGS.workers}",
            f"{hang['over_deadlines']:.2f}",
            "1.30",
        ),
        (
            f"memory after {found['memory']['rows']:,} rows, over that early on",
            f"{found['memory']['end_over_early']:.2f} ({found['memory']['mib'][-1]:.0f} MiB)",
            "flat",
        ),
    ]
    return markdown_table(("math grader, 2 KB responses", "measured", "aim"), lines)


def main() -> None:
    """Measure, or print the table."""
    parser = command_parser("benchmarks.reward_throughput", __doc__)
    parser.add_argument("part", choices=["measure", "table"])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000, help="of the memory run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    add_into(parser, "reward")
    given = parser.parse_args()
    if given.part == "measure":
        result = {
            "integers": measure_integers(given.repetitions),
            "mix": measure_mix(given.repetitions),
            "hanging": measure_hanging(),
            "memory": measure_memory(given.rows),
            "workers": SETTINGS.workers,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "seed": SEED,
            **provenance("benchmarks.reward_throughput"),
        }
        given.results.mkdir(parents=True, exist_ok=True)
        (given.results / "cpu.json").write_text(json.dumps(result, indent=2) + "\n")
    with errors_reported():
        show_table(table(), "reward", given.into)


if __name__ == "__main__":
    main()
