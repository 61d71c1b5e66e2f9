from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.math.equality import MAX_ITEMS, same
from reward.math.notation import MAX_CHARS, tidy
from reward.math.quantity import Quantity, normalise, quantity
from reward.math.structure import Parts, take_apart


def decimal(value, places):
    whole, rest = divmod(abs(value) * 10**places, 10**places)
    return f"{whole}.{int(rest):0{places}d}"


@st.composite
def written(draw, value):
    """Draw one spelling of a fraction, by the conventions of text and LaTeX."""
    minus = draw(st.sampled_from(["-", "\u2212", "- "])) if value < 0 else ""
    scale = draw(st.integers(1, 50))
    top, bottom = abs(value.numerator) * scale, value.denominator * scale
    whole, rest = divmod(top, bottom)
    ways = [
        f"{minus}{top}/{bottom}",
        f"{minus}\\frac{{{top}}}{{{bottom}}}",
        f"\\dfrac{{{minus}{top}}}{{{bottom}}}",
        f"{'' if minus else '-'}\\tfrac{{{top}}}{{-{bottom}}}",
        f"{minus}{whole}\\frac{{{rest}}}{{{bottom}}}",
    ]
    if value.denominator == 1:
        comma = draw(st.sampled_from([",", "{,}", "\\,", ",\\!", " ", "\u2009"]))
        grouped = f"{minus}{abs(value.numerator):,}".replace(",", comma)
        ways += [f"{minus}{'0' * scale}{abs(value)}", grouped, f"{minus}{abs(value)}e0"]
    if 10**6 % value.denominator == 0:
        ways.append(minus + decimal(value, draw(st.integers(6, 9))))
        ways.append(f"{minus}{decimal(abs(value) / 100, 9)} \\times 10^{{2}}")
    if value.denominator == 3 and rest:
        ways.append(f"{minus}{whole}.\\overline{{{3 * rest // bottom * 3}}}")
    dress = draw(st.sampled_from(["#", "$#$", "x = #", "\\(#\\)", " # ", "#.", "\\text{} #"]))
    return dress.replace("#", draw(st.sampled_from(ways)))


# Values near each other and short decimals make equal pairs and near misses common.
fractions = st.one_of(
    st.fractions(),
    st.builds(Fraction, st.integers(-20, 20), st.integers(1, 10)),
    st.builds(Fraction, st.integers(-(10**8), 10**8), st.sampled_from([1, 8, 1000, 10**6])),
)


@settings(max_examples=400)
@given(st.data(), fractions, st.one_of(st.none(), fractions))
def test_two_spellings_are_equal_if_and_only_if_their_fractions_are(data, value, other):
    """Compare two spellings of one fraction if `other` is None."""
    other = value if other is None else other
    left, right = data.draw(written(value)), data.draw(written(other))
    near = not (value == other) and abs(value - other) < Fraction(1, 10**6)
    if not near:
        assert same(left, right) == same(right, left) == (value == other)
    assert normalise(left) == str(value)


@pytest.mark.parametrize(
    ("decimal", "fraction", "expected"),
    [
        ("0.333333333333", "1/3", True),
        ("0.33333333333", "1/3", False),
        ("0.333333333334", "1/3", True),
        ("0.333333333335", "1/3", False),
        ("0.666666666666", "2/3", True),
        ("2.31481481481e-3", "1/432", True),
        ("0.500000000001", "1/2", False),
        ("3.14159", "3.1415", False),
        ("1234.57", "1234567/1000", False),
    ],
)
def test_a_decimal_of_twelve_digits_equals_a_number_without_finite_decimals(
    decimal, fraction, expected
):
    assert same(decimal, fraction) == same(fraction, decimal) == expected


@given(st.text(max_size=40))
def test_every_answer_that_states_something_equals_itself(text):
    assert not normalise(text) or same(text, text)


@given(
    st.text(
        alphabet="()[]{}\\,;<>=xyab01239.+-*/^_ |:$%pimsqrtfactextcupboxed&\u27e6\u27e7",
        max_size=60,
    ),
    st.text(alphabet="()[]{}\\,;=x12\u27e6\u27e7", max_size=30),
)
def test_the_fast_path_accepts_every_text(left, right):
    assert same(left, right) in (True, False, None)


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=6, unique=True), st.randoms())
def test_order_matters_in_tuples_but_not_in_lists_and_sets(numbers, random):
    shuffled = random.sample(numbers, len(numbers))
    plain, mixed = (", ".join(map(str, x)) for x in (numbers, shuffled))
    assert same(mixed, plain)
    assert same(f"\\{{{mixed}\\}}", plain)
    assert same(f"\\{{{mixed}\\}}", f"\\{{{plain}\\}}")
    assert same(f"({mixed})", f"({plain})") == (numbers == shuffled)
    assert same(mixed, f"({plain})") == (numbers == shuffled)
    assert not same(f"\\{{{plain}\\}}", f"({plain})")
    assert not same(f"{plain}, 10", plain)
    assert not same(plain, f"{plain}, 10")
    assert not same(plain, str(numbers[0]))
    assert not same(str(numbers[0]), plain)


@pytest.mark.parametrize("left", ["(0,1)", "(0,1]", "[0,1)", "[0,1]"])
@pytest.mark.parametrize("right", ["(0,1)", "(0,1]", "[0,1)", "[0,1]"])
def test_brackets_of_intervals_matter(left, right):
    assert same(left, right) == (left == right)
    assert same(left, f"[0,1] \\cup {right}") in (False, None)


@pytest.mark.parametrize(
    ("relation", "interval"),
    [
        ("x > 3", r"(3, \infty)"),
        (r"x \ge 3", r"[3, \infty)"),
        ("3 < x", r"(3, \infty)"),
        (r"x \leq \frac{1}{2}", r"(-\infty, 0.5]"),
        ("1 < x < 4", "(1, 4)"),
        (r"4 \ge t > 1", "(1, 4]"),
    ],
)
def test_a_relation_equals_its_interval(relation, interval):
    others = {
        "(3, \\infty)",
        "[3, \\infty)",
        "(-\\infty, 0.5]",
        "(1, 4)",
        "(1, 4]",
        "(-\\infty, 3)",
    }
    assert same(relation, interval) is same(interval, relation) is True
    assert all(same(relation, other) is False for other in others - {interval})


@pytest.mark.parametrize("relation", ["x > y", "1 < x > 4", "x^2 > 4", "|x| < 1", "a < 1 < 2"])
def test_other_relations_are_left_to_symbolic_mathematics(relation):
    assert same(relation, "(1, 2)") is None


def test_an_answer_is_split_into_parts():
    assert take_apart(tidy("1, 2 \\text{ and } 3")) == Parts(",", ("1", "2", "3"))
    assert take_apart(tidy("\\left(1, \\frac{1}{2}\\right]")) == Parts("(]", ("1", "\\frac{1}{2}"))
    assert take_apart(tidy("\\{1 \\pm \\sqrt2\\}")) == Parts(
        "{}", ("1 + \\sqrt{2}", "1 - \\sqrt{2}")
    )
    assert take_apart(tidy("(1,2) \\cup \\{3\\}")) == Parts("cup", ("(1,2)", "\\{3\\}"))
    assert take_apart(tidy("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}")).kind == "matrix"
    assert take_apart("1,234") == Parts("", ("1,234",))
    assert take_apart("f(x,y)+1") == Parts("", ("f(x,y)+1",))
    assert take_apart("(1+2)(3+4)") == Parts("", ("(1+2)(3+4)",))


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5 \\text{ cm}^2", 5, "cm^2"),
        ("5 square centimeters", 5, "cm^2"),
        ("60\\text{ miles per hour}", 60, "mi/h"),
        ("60\\,\\mathrm{mi/h}", 60, "mi/h"),
        ("30^\\circ", 30, "\u00b0"),
        ("30\u00b0", 30, "\u00b0"),
        ("50\\%", 50, "%"),
        ("5 \\text{ m}", 5, "m"),
        ("5 meters", 5, "m"),
        ("34 apples", 34, "apples"),
    ],
)
def test_a_unit_has_one_name(text, value, unit):
    assert quantity(tidy(text)) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    "text",
    [
        "5 or six",
        "5 minus one",
        "5 squared",
        "5 hundred",
        "5 \\text{ million}",
        "5\\text{i}",
        "5m",
        "2xy",
        "2 pi",
        "5 or 6",
        "3\\text{ or }4",
        "2 \\text{ if } x",
    ],
)
def test_a_possible_variable_or_number_word_is_no_unit(text):
    assert quantity(tidy(text)) is None


def test_separate_numbers_do_not_vote_for_one_number_with_their_digits():
    assert normalise("3 4") == "3 4"
    assert normalise("1, 234") != normalise("1,234") == "1234"


@pytest.mark.parametrize("digits", [MAX_CHARS, MAX_CHARS + 1, 4299, 4300, 4301, 100_000])
def test_a_number_of_any_size_equals_itself_and_not_its_neighbour(digits):
    number = "9" * digits
    assert same(number, number)
    assert not same(number, number[:-1] + "8")
    assert not same(f"{number}/{number}", "2")


@pytest.mark.parametrize(
    "brackets",
    [
        "()",
        "[]",
        "{}",
        ("\\{", "\\}"),
        ("\\frac{", "}{2}"),
        ("\\\uff5b", "\\\uff5d"),
        ("\\lbrace ", "\\rbrace "),
    ],
)
@pytest.mark.parametrize("depth", [10, 100, 290, 500, 2000, 100_000])
def test_nesting_of_any_depth_is_decided(brackets, depth):
    text = brackets[0] * depth + "1" + brackets[1] * depth
    assert same(text, text)
    assert same(text, "x") in (False, None)
    assert same("x", text) in (False, None)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["9" * 3500 + "e999", "9" * 4000 + "/7", "7e999" + "9"])
def test_a_number_too_long_to_print_votes_as_written(text):
    assert normalise(text) == text
    assert same(text, text)
    assert not same(text, "34")


def test_an_index_of_a_letter_is_no_base():
    assert same("a_1", "a") is not True
    assert same("1101_2", "1101_3") is False
    assert same("FF_{16}", "ff_{16}") is not False


def test_a_list_of_any_length_is_decided():
    numbers = ", ".join(map(str, range(MAX_ITEMS + 1)))
    assert same(numbers, numbers)
    assert same(numbers, "1, " + numbers) is False


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "\\frac{1}",
            "\\text{",
            "\\text{a}",
            "x=",
            "\u00bd",
            "\ufdfa",
            "1,",
            "1 ",
            "(",
            "()",
            "\\cup ",
        ),
        *("\\pm", "^2", "a b", "1a", "{1}", "\\{", ",", "=", "_", ":", "&", "\u27e6", "abcd "),
    ],
)
def test_the_longest_answers_are_decided_at_once(unit):
    text = (unit * MAX_CHARS)[:MAX_CHARS]
    for other in ("34", "(1,2)", text[1:], "x" + text[1:]):
        same(text, other)
        same(other, text)
