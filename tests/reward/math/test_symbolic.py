import pytest
import sympy

from reward.math.notation import tidy
from reward.math.symbolic import NotUnderstoodError, same_expression

EQUAL = [
    (r"2\sqrt{2}", r"\sqrt{8}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\sin^2 x + \cos^2 x - 1", "0"),
    (r"\sqrt{2}\sqrt{3} - \sqrt{6}", "0"),
    (r"\log x^2", r"2\log x"),
    (r"\ln 4", r"2\ln 2"),
    (r"\sqrt{x^2}", "|x|"),
    ("n!", "n(n-1)!"),
    (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
    (r"(-1)^n", r"\cos(n\pi)"),
    (r"e^{i\pi}", "-1"),
    ("(1+i)^2", "2i"),
    ("x^{2/3}", r"\sqrt[3]{x^2}"),
    ("12.5663706143592", r"4\pi"),
    ("2x - y + 1 = 0", "y = 2x + 1"),
    (r"\frac{x}{2} + \frac{y}{3} = 1", "3x + 2y = 6"),
    ("xy = 1", r"y = \frac{1}{x}"),
    ("x > 3", r"(3, \infty)"),
    ("4 > x > 1", "1 < x < 4"),
    (r"[1,2] \cup [2,3]", "[1,3]"),
    (r"x < -2 or x > 2", r"(-\infty,-2) \cup (2,\infty)"),
    (r"(-\infty, \infty)", r"\mathbb{R}"),
    ("sqrt(2)*3", r"3\sqrt{2}"),
    ("f(x) + 1", "1 + f(x)"),
]
DIFFERENT = [
    (r"\sqrt{x^2}", "x"),
    ("|x|", "x"),
    ("1/2004!", "1/2006!"),
    ("2^{-99}", "2^{-98}"),
    (r"1-\frac{1}{e}", r"1+\frac{1}{e}"),
    (r"\sqrt{2} + 10^{-40}", r"\sqrt{2}"),
    ("3.14", r"\pi"),
    ("1.41421356", r"\sqrt{2}"),
    ("3x - y + 13 = 0", "3x + 4y + 14 = 0"),
    ("x = 4", "y = 4"),
    ("x > 3", "y > 3"),
    ("x > 3", r"[3, \infty)"),
    (r"[1,2] \cup [3,4]", "[1,4]"),
    ("f(x)", "g(x)"),
    (r"-\infty", r"\infty"),
    ("0", r"\emptyset"),
    (r"x < \infty", r"\emptyset"),
    (r"\frac{1}{2\ln x}", r"1/2 \ln x"),
    (r"x(x-1)(x-2)(x-3)+x", "x"),
]
REFUSED = [
    "9^{9^{9^{9}}}",
    "((((9!)!)!)!)!",
    r"2^{10^{100}}",
    "1" * 500,
    "x+" * 600 + "x",
    r"\sum_{k=1}^{10^9} k",
    r"\int_0^1 e^{x^2} dx",
    r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}",
    r"\phantom{0}",
    "1/0",
    "__import__('os').system('true')",
    "().__class__.__base__.__subclasses__()",
    "(lambda: 0)() or 0",
    "open('x').write(1)",
    "x.evalf",
    "the value of it",
    "1 < 2",
    "2 < 1",
    "101_{2}+e",
    r"\ln 3_2",
    r"\frac{1}{",
]


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_textbook_forms_of_one_expression_are_the_same(left, right):
    assert same_expression(tidy(left), tidy(right))
    assert same_expression(tidy(right), tidy(left))


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_different_expressions_are_not_the_same(left, right):
    assert not same_expression(tidy(left), tidy(right))
    assert not same_expression(tidy(right), tidy(left))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", REFUSED)
def test_texts_that_are_too_large_or_no_mathematics_are_refused(text):
    with pytest.raises(NotUnderstoodError):
        same_expression(tidy(text), "0")
    with pytest.raises(NotUnderstoodError):
        same_expression("0", tidy(text))


def test_no_text_is_ever_evaluated(monkeypatch, tmp_path):
    """Refuse any string given to sympy's parse_expr or sympify, which would evaluate it."""
    import latex2sympy2_extended.latex2sympy2 as parser
    import latex2sympy2_extended.logic as logic
    import latex2sympy2_extended.sets as sets

    def refuse(value, *args, **kwargs):
        if isinstance(value, str):
            raise AssertionError(f"a string to evaluate: {value}")
        return sympify(value, *args, **kwargs)

    sympify = sympy.sympify
    monkeypatch.setattr(parser, "parse_expr", refuse)
    for module in (sympy, logic, sets):
        monkeypatch.setattr(module, "sympify", refuse, raising=False)
    marker = tmp_path / "made"
    for payload in (
        f"open('{marker}','w')",
        f"__import__('pathlib').Path('{marker}').touch()",
        "globals()",
        "exec(1)",
        *(left for left, _ in EQUAL),
    ):
        try:
            same_expression(tidy(payload), "0")
        except NotUnderstoodError:
            continue
    assert not marker.exists()
