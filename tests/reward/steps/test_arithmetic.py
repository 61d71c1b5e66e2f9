"""The exact judge of the demo's arithmetic, beside solutions whose slips are known."""

from random import Random

import pytest

from reward.steps import Attempt, JudgeSettings, begin
from reward.steps.arithmetic import first_wrong
from scripts import arithmetic

PROBLEM = arithmetic.TEMPLATE.format(expression="3 + 8 - 2")


def judge(response: str) -> float:
    settings = JudgeSettings("arithmetic", "", None, 1.0, 0, 1, 1)
    [share] = begin(settings)([Attempt(PROBLEM, response, "9")])
    return share


def test_a_solution_without_slips_is_right_to_its_end():
    for task in arithmetic.TASKS.values():
        sound = task._replace(slip_rate=0, check_slip_rate=0)
        for expression in arithmetic.draw_expressions(0)["val"][:50]:
            solution = arithmetic.draw_solution(sound, expression, Random(expression))
            assert first_wrong(expression, solution.splitlines()) is None


@pytest.mark.parametrize("task", ["length_gap", "length_spread"])
def test_the_first_slip_is_the_first_wrong_line(task):
    """Every line of a checked solution is a step or a check, and each may slip."""
    random = Random(1)
    for expression in arithmetic.draw_expressions(0)["val"][:200]:
        checked = task == "length_gap"
        num = len(arithmetic.results(expression)) * (1 + checked)
        slips = [random.choice((0, 0, 1, -2)) for _ in range(num)]
        lines = arithmetic.worked_solution(expression, slips, checked=checked).splitlines()
        # The answer repeats the last value, so it is wrong only after a slip.
        expected = next((place for place, slip in enumerate(slips) if slip), None)
        assert first_wrong(expression, lines) == expected


def test_a_guess_is_wrong_and_a_remark_is_not():
    lines = arithmetic.remarked_solution("3 + 8 - 2", [0, 1], [2, 1]).splitlines()
    assert lines[3] == "11 - 2 ~ 10"
    assert first_wrong("3 + 8 - 2", lines) == 3


@pytest.mark.parametrize(
    ("response", "share"),
    [
        ("3 + 8 = 12\n12 - 2 = 10\nAnswer: 10", 0.0),
        ("3 + 8 = 11\n11 - 2 = 10\nAnswer: 10", 11 / 33),
        ("3 + 8 = 11\n11 - 2 = 9\nAnswer: 10", 22 / 32),
        # Cut off, or without the second step.
        ("3 + 8 = 11\n11 - 2 = 9\n", 1.0),
        ("3 + 8 = 11\nAnswer: 11", 11 / 21),
        # The right number by another step, a step too many, words.
        ("3 + 8 = 11\n11 - 3 = 8\n8 + 1 = 9\nAnswer: 9", 11 / 41),
        ("3 + 8 = 11\n11 - 2 = 9\n9 + 1 = 10\nAnswer: 10", 22 / 43),
        ("I think it is 9", 0.0),
        ("", 1.0),
    ],
)
def test_the_share_is_that_of_the_characters_before(response, share):
    assert judge(response) == pytest.approx(share)


def test_a_problem_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"ends with 'What is love\?', which is no expression"):
        first = JudgeSettings("arithmetic", "", None, 1.0, 0, 1, 1)
        begin(first)([Attempt("What is love?", "", "")])
