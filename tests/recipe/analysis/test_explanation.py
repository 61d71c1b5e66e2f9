"""The claims of the paragraph on constructed runs, compared with the numbers that were built in."""

import re

import numpy as np
import pytest

from recipe.analysis.advantages import group_advantages
from recipe.analysis.counterfactual import analyse
from recipe.analysis.explanation import FEW, explanation
from recipe.maths.rules import RULES

UNSURE = "not distinguishable from zero"


def run(correct=100, wrong=100, later=1.0, later_wrong=1.0, groups=30, steps=4, rule="token_batch"):
    """Steps of groups of 8, half right; the second half of the steps is longer by a factor.

    Lengths vary by 10 % around their means.
    """
    random = np.random.default_rng(0)
    number = np.arange(steps * groups * 8)
    step_N, group_N = number // (groups * 8), number // 8
    is_right_N = number % 8 < 4
    factor_N = np.where(step_N < steps // 2, 1.0, np.where(is_right_N, later, later_wrong))
    mean_N = np.where(is_right_N, correct, wrong) * factor_N
    length_N = np.rint(mean_N * random.normal(1, 0.1, len(number))).astype(int)
    none = np.zeros(len(number), int)
    advantage_N = group_advantages(is_right_N.astype(float), group_N, number, none)
    rules = {name: RULES[name] for name in ("sequence", "token", "token_batch", "balanced")}
    return analyse(step_N, group_N, length_N, advantage_N, rules, rule)


def numbers(pattern: str, text: str) -> list[float]:
    [found] = re.findall(pattern, text)
    return [float(number) for number in ([found] if isinstance(found, str) else found)]


def test_longer_wrong_responses_are_said_to_take_the_objective():
    analysis = run(correct=100, wrong=200)
    said = explanation(analysis)
    assert "\n" not in said
    # 200 of 300 tokens, at equal advantages.
    own, other = numbers(
        r"moved the objective to the negative ones because of lengths: negative responses had "
        r"([\d.]+)% \[.*?\] of it, and ([\d.]+)%",
        said,
    )
    assert own == pytest.approx(200 / 3, abs=1) and other == pytest.approx(50, abs=0.1)
    assert own == round(100 * analysis.run["objective_share_negative/token_batch"].value, 1)
    # 100 of a mean of 150.
    [gap] = numbers(r"negative responses were longer than positive ones by ([\d.]+)%", said)
    assert gap == pytest.approx(200 / 3, abs=2)
    for name in ("sequence", "balanced"):
        [added, low, high] = numbers(rf"`{name}` ([+-][\d.]+) \[([-\d.]+), ([-\d.]+)\]", said)
        assert added == pytest.approx(50 - 200 / 3, abs=1) and low <= added <= high < 0
        assert added == round(-100 * analysis.run[f"excess/{name}"].value, 1)
    [coupling] = numbers(r"sign-length coupling ([+-][\d.]+) \[", said)
    assert coupling == pytest.approx(-np.log(2), abs=0.05)
    assert "`token`" in said.partition("No measurable change under ")[2]


def test_longer_right_responses_are_said_to_take_the_objective():
    said = explanation(run(correct=200, wrong=100))
    assert "moved the objective to the positive ones because of lengths" in said
    assert "negative responses were shorter than positive ones by" in said
    [added] = numbers(r"`balanced` ([+-][\d.]+) \[", said)
    assert added == pytest.approx(50 - 100 / 3, abs=1)


def test_no_gap_is_said_to_be_none():
    said = explanation(run())
    assert f"a gap that is {UNSURE}" in said
    assert re.search(rf"sign-length coupling of [+-]0\.0\d \[.*?\] is {UNSURE}", said)
    assert "No other rule would have changed the shares of the signs" in said
    assert re.search(rf"the change of [+-][\d.]+ \[.*?\] is {UNSURE}", said)
    assert "moved the objective" not in said and "became" not in said


@pytest.mark.parametrize("wrong", [100, 200])
def test_too_few_groups_allow_no_claim(wrong):
    said = explanation(run(wrong=wrong, later_wrong=2, groups=2))
    assert 2 * 4 < FEW
    assert "too short to tell whether lengths moved" in said and "4 groups in a half" in said
    assert "With 8 groups of both signs the effect is not distinguishable from zero" in said
    assert not re.search("moved the objective|would have (given|added)|became", said)
    # No interval is shown that a reader could take for a claim.
    assert "[" not in said


def test_the_sign_that_grew_is_named_with_what_it_adds():
    analysis = run(later_wrong=1.4)
    said = explanation(analysis)
    [before, after] = numbers(r"had ([\d.]+) tokens on average in steps 0 to 1 and ([\d.]+)", said)
    assert (before, after) == (pytest.approx(100, abs=1), pytest.approx(120, abs=1))
    assert said.startswith("Responses became longer: ")
    [added, low, high] = numbers(
        r"these parts are clear: ([+-][\d.]+) \[([\d.]+), ([\d.]+)\] because negative responses "
        r"became longer\.",
        said,
    )
    assert added == pytest.approx(20, abs=1) and low <= added <= high
    rest = "positive responses and of responses with advantage 0 and of the shares of the signs"
    assert f"The part of {rest} is {UNSURE}." in said


def test_signs_that_moved_apart_are_named_though_the_mean_stayed():
    said = explanation(run(later=0.8, later_wrong=1.2))
    assert said.startswith("Lengths did not move on average")
    assert "because negative responses became longer" in said
    assert "because positive responses became shorter" in said


def test_the_rule_for_which_length_does_not_count_is_said_to_couple_nothing():
    said = explanation(run(wrong=200, rule="sequence"))
    assert "signs and lengths were not coupled: negative responses had 50.0%" in said
    [added] = numbers(r"`token_batch` ([+-][\d.]+) \[", said)
    assert added == pytest.approx(200 / 3 - 50, abs=1)


def test_one_step_and_characters_are_said():
    assert explanation(run(steps=1)).startswith("The dump has one step")
    said = explanation(run(), "characters")
    assert re.search(r"responses had [\d.]+ characters on average", said)
