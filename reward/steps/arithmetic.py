"""Check the steps of the demo's arithmetic exactly: `scripts/arithmetic.py` shows the form.

A line is right if the value that it states is that of the expression so far. A line in no known
form is a wrong step.
"""

import re
from collections.abc import Sequence
from itertools import accumulate

from reward.steps.base import Attempt, share_before

EXPRESSION = re.compile(r"-?\d+(?: [+-] \d+)+")
STEP = re.compile(r"(-?\d+) ([+-]) (\d+) [=~] (-?\d+)")
CHECK = re.compile(r"Wait, let me check that .*: (-?\d+)")
REMARK = "Wait, let me check"
ANSWER = re.compile(r"Answer: (-?\d+)")


class ArithmeticJudge:
    """Judge responses to prompts that end with an expression such as `3 + 8 - 2`."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return the share of each response before its first wrong line.

        Raises:
            ValueError: a prompt does not end with an expression.
        """
        return [share(attempt) for attempt in attempts]


def share(attempt: Attempt) -> float:
    """Return the share of a response before its first wrong line.

    Raises:
        ValueError: the prompt does not end with an expression.
    """
    expression = attempt.problem.rstrip().rpartition("\n")[2]
    if not EXPRESSION.fullmatch(expression):
        raise ValueError(
            f"step_judge.kind is arithmetic, but a prompt ends with {expression[:80]!r}, which is "
            f"no expression such as 3 + 8 - 2. Use step_judge.kind=server, or a data set of "
            f"configs/data/arithmetic_*.yaml."
        )
    lines = attempt.response.splitlines(keepends=True)
    wrong = first_wrong(expression, [line.strip() for line in lines])
    return 1.0 if wrong is None else share_before(wrong, lines)


def first_wrong(expression: str, lines: Sequence[str]) -> int | None:
    """Return the number of the first line, from 0, that is wrong; None if there is none."""
    start, *rest = expression.split()
    operations = list(zip(rest[::2], rest[1::2], strict=True))
    values = list(
        accumulate((int(sign + number) for sign, number in operations), initial=int(start))
    )
    done = 0
    for place, line in enumerate(lines):
        if found := STEP.fullmatch(line):
            before, *operation, after = found.groups()
            right = done < len(operations) and tuple(operation) == operations[done]
            done += 1
            right = right and int(before) == values[done - 1] and int(after) == values[done]
        elif found := CHECK.fullmatch(line):
            right = done > 0 and int(found[1]) == values[done]
        elif found := ANSWER.fullmatch(line):
            right = done == len(operations) and int(found[1]) == values[-1]
        else:
            right = line in ("", REMARK)
        if not right:
            return place
    return None
