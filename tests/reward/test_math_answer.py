import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.math_answer import MAX_CHARS, equal, extract, normalise

CASES = json.loads((Path(__file__).parent / "math_cases.json").read_text(encoding="utf-8"))


def outcome(response, truth, style):
    answer = extract(response, style)
    if answer is None:
        return "no_answer"
    return "right" if equal(answer, truth) else "wrong"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['category']}: {case['response']}")
def test_a_case_gets_the_outcome_its_definition_gives(case):
    style = "boxed" if case["source"] == "polaris" else "answer_line"
    assert outcome(case["response"], case["truth"], style) == case["expected"]


def test_every_outcome_and_source_has_cases():
    assert len(CASES) >= 80
    pairs = {(case["source"], case["expected"]) for case in CASES}
    assert pairs >= {
        (source, expected)
        for source in ("math_dapo", "polaris")
        for expected in ("right", "wrong", "no_answer")
    }


def test_the_extracted_answer_has_no_markup():
    assert extract("So **Answer: $\\boxed{34}$.**<|im_end|>", "answer_line") == "34"
    assert extract("$$\\boxed{\\frac{1}{2}}$$", "boxed") == "\\frac{1}{2}"
    assert extract("\\boxed{(0, 1]}", "boxed") == "(0, 1]"


def test_different_answers_of_one_line_are_stated_together():
    assert extract("\\boxed{3} or \\boxed{4}", "boxed") == "3, 4"
    assert extract("Answer: 3 Answer: 4", "answer_line") == "3, 4"
    assert extract("\\boxed{3}\n\\boxed{4}", "boxed") == "4"


def test_separate_numbers_do_not_vote_for_the_number_of_their_joined_digits():
    assert normalise("3 4") == "3 4"
    assert normalise("1, 234") != normalise("1,234") == "1234"


@pytest.mark.parametrize("style", ["answer", "box", ""])
def test_a_misspelt_style_is_refused(style):
    with pytest.raises(KeyError, match=style):
        extract("Answer: 34", style)


@pytest.mark.parametrize("truth", ["", " ", "$$", ".", "\\text{}", "\u200b", None, 34, math.nan])
def test_a_ground_truth_that_states_nothing_is_refused(truth):
    with pytest.raises(ValueError, match=r"ground truth is .* Repair or drop this row"):
        equal("34", truth)


def decimal(value, places):
    whole, rest = divmod(abs(value) * 10**places, 10**places)
    return f"{whole}.{int(rest):0{places}d}"


@st.composite
def written(draw, value):
    """One way to write a fraction, by the conventions of text and LaTeX."""
    minus = draw(st.sampled_from(["-", "\u2212", "- "])) if value < 0 else ""
    scale = draw(st.integers(1, 50))
    top, bottom = abs(value.numerator) * scale, value.denominator * scale
    ways = [
        f"{minus}{top}/{bottom}",
        f"{minus}\\frac{{{top}}}{{{bottom}}}",
        f"\\dfrac{{{minus}{top}}}{{{bottom}}}",
        f"{'' if minus else '-'}\\tfrac{{{top}}}{{-{bottom}}}",
    ]
    if value.denominator == 1:
        comma = draw(st.sampled_from([",", "{,}", "\\,", ",\\!"]))
        grouped = f"{minus}{abs(value.numerator):,}".replace(",", comma)
        ways += [f"{minus}{'0' * scale}{abs(value)}", grouped]
    if 10**6 % value.denominator == 0:
        ways.append(minus + decimal(value, draw(st.integers(6, 9))))
    dress = draw(st.sampled_from(["#", "$#$", "x = #", "\\(#\\)", " # ", "#."]))
    return dress.replace("#", draw(st.sampled_from(ways)))


# Near each other and with short decimals, so that equal pairs and near misses are common.
fractions = st.one_of(
    st.fractions(),
    st.builds(Fraction, st.integers(-20, 20), st.integers(1, 10)),
    st.builds(Fraction, st.integers(-(10**8), 10**8), st.sampled_from([1, 8, 1000, 10**6])),
)


@settings(deadline=None, max_examples=300)
@given(st.data(), fractions, st.one_of(st.none(), fractions))
def test_two_writings_are_equal_just_when_their_fractions_are(data, value, other):
    """`None` draws two writings of one fraction."""
    other = value if other is None else other
    left, right = data.draw(written(value)), data.draw(written(other))
    assert equal(left, right) == equal(right, left) == (value == other)
    assert normalise(left) == str(value)


@given(st.text(max_size=40))
def test_any_answer_that_states_something_equals_itself(text):
    assert not normalise(text) or equal(text, text)


@given(st.text(max_size=60), st.sampled_from(["answer_line", "boxed"]))
def test_text_without_a_marker_states_no_answer(text, style):
    if "answer" not in text.casefold() and "box" not in text:
        assert extract(text, style) is None


@pytest.mark.parametrize("digits", [MAX_CHARS, MAX_CHARS + 1, 4299, 4300, 4301, 100_000])
def test_a_number_of_any_size_equals_itself_and_not_its_neighbour(digits):
    number = "9" * digits
    assert equal(number, number)
    assert not equal(number, number[:-1] + "8")
    assert not equal(f"{number}/{number}", "2")


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        *("\\boxed{", "\\boxed{1}", "\\boxed ", "{", "{}", "Answer:", "Answer: 1\n", "answer*"),
        *("\n", " ", "$", "*", ".", "<|", "</s>", "1", "1,", "\\frac{1}", "\\text{", "x="),
        *("\u0301\u0316", "\u00bd", "\ufdfa"),
    ],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit):
    """Quadratic work on a megabyte takes many minutes; linear work takes a few seconds at most."""
    text = unit * (1_000_000 // len(unit))
    equal(extract(f"Answer: {text}x", "answer_line") or "", "34")
    equal(extract(f"\\boxed{{{text}}}", "boxed") or "", "34")
    equal("34", text + "x")


@pytest.mark.timeout(60)
def test_nesting_of_any_depth_is_read():
    depth = 100_000
    assert extract("\\boxed{" * depth + "34" + "}" * depth, "boxed") == "34"
