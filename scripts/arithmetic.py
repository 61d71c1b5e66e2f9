"""Multi-step arithmetic: rows in the schema of DAPO-Math-17k, and worked solutions to imitate.

A prompt asks for the value of an expression such as `3 + 8 - 2`. A worked solution has one line
per step, may check each step, may slip in any line, and states what it arrived at:

    3 + 8 = 11
    Wait, let me check that again: 3 + 8 = 12
    12 - 2 = 10
    Wait, let me check that again: 12 - 2 = 10
    Answer: 10

A model that imitates such solutions knows how to calculate and slips at random, so reinforcement
learning has something to remove. What checks do decides whether length tells right from wrong:

- `length_gap`: checks slip more than steps, so wrong responses are much longer than right ones.
- `length_spread`: checks only repeat, so lengths vary as much and say nothing.

Checks that slip are soon unlearned, and with them the gap. In the other tasks remarks that change
nothing follow each step, more or fewer of them once a step has slipped:

    3 + 8 ~ 12
    Wait, let me check
    12 - 2 = 10
    Wait, let me check
    Wait, let me check
    Answer: 10

A guess (`~`) is always off. After it no remark makes the answer right or wrong, so in expectation
nothing is learned about remarks, and the difference in length lasts as long as there are guesses.

- `wrong_longer_*`, `level_*`, `wrong_shorter_*`: which responses are longer.
- `*_steady`, `*_varied`: whether the number of remarks after a step is fixed or drawn.
"""

from collections.abc import Sequence
from itertools import accumulate, chain, product, zip_longest
from operator import or_
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

NUM_TRAIN, NUM_VAL = 8192, 256

NUM_OPERANDS = (2, 3, 4)
NUMBERS = range(1, 10)
RESULTS = range(21)
SLIPS = (-2, -1, 1, 2)

REMARK = "Wait, let me check"
GUESS = " ~ "
CHECK = "Wait, let me check that step once more to be sure: "

# The parts of DAPO's template, in fewer tokens: how to answer, an empty line, the question.
TEMPLATE = 'Solve step by step. End with a line "Answer: N".\n\n{expression}'

# DAPO-Math-17k as published; `index` is a string there.
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"ground_truth": pa.string(), "style": pa.string()}),
        "extra_info": pa.struct({"index": pa.string()}),
    }
)


class Task(NamedTuple):
    """How often worked solutions check their steps, and how often a step and a check slip."""

    checked: float
    slip_rate: float
    check_slip_rate: float
    remarks: tuple[Sequence[int], Sequence[int]] | None = None
    """Numbers of remarks to draw from, before a step has slipped and from then on. With remarks a
    slip is marked as a guess, so that a small model sees whether one was made."""


def _remarking(sound: Sequence[int], slipped: Sequence[int]) -> Task:
    return Task(checked=0, slip_rate=0.4, check_slip_rate=0, remarks=(sound, slipped))


TASKS = {
    "length_gap": Task(checked=0.5, slip_rate=0.2, check_slip_rate=0.75),
    "length_spread": Task(checked=0.5, slip_rate=0.32, check_slip_rate=0.0),
    "wrong_longer_steady": _remarking((0,), (2,)),
    "wrong_longer_varied": _remarking((0, 1), (1, 4)),
    "level_steady": _remarking((1,), (1,)),
    "level_varied": _remarking((0, 2), (0, 2)),
    "wrong_shorter_steady": _remarking((2,), (0,)),
    "wrong_shorter_varied": _remarking((1, 4), (0, 1)),
}


def results(expression: str) -> list[int]:
    """The result of each step."""
    parts = ["+", *expression.split()]
    signed = map("".join, zip(parts[::2], parts[1::2], strict=True))
    return list(accumulate(map(int, signed)))[1:]


def worked_solution(expression: str, slips: Sequence[int] = (), *, checked: bool = False) -> str:
    """Write out the steps and the answer.

    Args:
        expression: numbers and operators, one space apart.
        slips: what is added to the result of each line, in order; later lines build on it.
            None given means none made.
        checked: whether each step has a second line that does it again.
    """
    start, *operations = expression.split()
    lines: list[str] = []
    for operator, number in zip(operations[::2], operations[1::2], strict=True):
        result = int(start) + int(operator + number)
        for prefix in (f"{start} {operator} {number} = ", CHECK)[: 1 + checked]:
            result += slips[len(lines)] if slips else 0
            lines.append(f"{prefix}{result}")
        start = str(result)
    return "\n".join([*lines, f"Answer: {start}"])


def remarked_solution(expression: str, slips: Sequence[int], remarks: Sequence[int]) -> str:
    """Write out the steps, each with its remarks, and the answer.

    Args:
        expression: numbers and operators, one space apart.
        slips: what is added to the result of each step; one that is not 0 is written as a guess.
        remarks: how many follow each step.
    """
    start, *operations = expression.split()
    result, lines = int(start), []
    for i, (operator, number) in enumerate(zip(operations[::2], operations[1::2], strict=True)):
        step = f"{result} {operator} {number}{GUESS if slips[i] else ' = '}"
        result += int(operator + number) + slips[i]
        lines += [f"{step}{result}", *[REMARK] * remarks[i]]
    return "\n".join([*lines, f"Answer: {result}"])


def draw_solution(task: Task, expression: str, random: Random) -> str:
    """A worked solution as the task has them: checked or not, with slips here and there."""
    if task.remarks:
        return _draw_remarked(task, expression, random)
    checked = random.random() < task.checked
    rates = [task.slip_rate, task.check_slip_rate] if checked else [task.slip_rate]
    slips = [
        random.choice(SLIPS) if random.random() < rate else 0
        for _ in results(expression)
        for rate in rates
    ]
    return worked_solution(expression, slips, checked=checked)


def _draw_remarked(task: Task, expression: str, random: Random) -> str:
    """Draw slips, each with a result in range, and remarks by whether one was made."""
    assert task.remarks
    shift, slips = 0, []
    for result in results(expression):
        allowed = [slip for slip in SLIPS if result + shift + slip in RESULTS]
        slip = random.choice(allowed) if allowed and random.random() < task.slip_rate else 0
        shift += slip
        slips.append(slip)
    slipped = accumulate(map(bool, slips), or_)
    remarks = [random.choice(task.remarks[is_slipped]) for is_slipped in slipped]
    return remarked_solution(expression, slips, remarks)


def is_correct(response: str, expression: str) -> bool:
    """Return whether the last line is `Answer: N` with the right number, exactly so.

    Enough for a model that has seen nothing else; the reward reads answers in many more forms.
    """
    return response.rpartition("\n")[2] == f"Answer: {results(expression)[-1]}"


def draw_expressions(
    seed: int, num_train: int = NUM_TRAIN, num_val: int = NUM_VAL
) -> dict[str, list[str]]:
    """Return expressions of the splits `train` and `val`, none of them twice.

    All numbers of operands are equally frequent until the short expressions run out. When all
    have run out, `train` is what `val` left.
    """
    random = Random(seed)
    pools = [_all_expressions(num_operands) for num_operands in NUM_OPERANDS]
    for pool in pools:
        random.shuffle(pool)
    mixed = [expression for expression in chain(*zip_longest(*pools)) if expression]
    drawn = mixed[: num_train + num_val]
    random.shuffle(drawn)
    return {"train": drawn[num_val:], "val": drawn[:num_val]}


def row(expression: str, index: str) -> dict[str, Any]:
    """The row of a prompt, as DAPO-Math-17k has it."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": TEMPLATE.format(expression=expression), "role": "user"}],
        "ability": "MATH",
        "reward_model": {
            "ground_truth": str(results(expression)[-1]),
            "style": "rule-lighteval/MATH_v2",
        },
        "extra_info": {"index": index},
    }


def write_parquet(split: str, expressions: list[str], path: Path) -> None:
    """Write the rows of a split, with exactly the published columns and types."""
    rows = [row(expression, f"{split}/{i}") for i, expression in enumerate(expressions)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def _all_expressions(num_operands: int) -> list[str]:
    """All expressions of this many operands whose results stay in range."""
    operations = [f"{operator} {number}" for operator, number in product("+-", NUMBERS)]
    parts = product(map(str, NUMBERS), *[operations] * (num_operands - 1))
    return [text for text in map(" ".join, parts) if all(n in RESULTS for n in results(text))]
