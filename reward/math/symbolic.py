r"""Decide whether two expressions are the same, by symbolic mathematics, in worker processes only.

math-verify's parser reads expressions within the limits. If it cannot read one, the expression is
refused: nothing is guessed. Numbers and expressions in real variables are compared by their values
to 100 digits. math-verify compares everything else. Nothing here stops by itself: the pool sets a
deadline and a memory limit.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import cast

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from math_verify import verify
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from reward.math.equality import DIGITS_OF_AN_APPROXIMATION
from reward.math.notation import CLOSE, OPEN
from reward.math.quantity import Quantity, quantity

MAX_CHARS = 1000
MAX_DIGITS = 400
MAX_EXPONENT = 10_000

_NORMALIZATION = NormalizationConfig(
    basic_latex=True,
    units=False,
    malformed_operators=True,
    nits=True,
    boxed="none",
    equations=False,
)
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan|infty"
    r"|alpha|beta|gamma|theta|phi)(?![A-Za-z])"
)
_IMAGINARY_UNIT = re.compile(r"(?<![A-Za-z\\_])(?<!_\{)i(?![A-Za-z])")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z]).*\\circ")
_INFINITY = re.compile(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])")
_ROOT_OF_BRACKETS = re.compile(r"\\sqrt ?\(([^()]*)\)")
# `1/2x` is half of x, as in `reward.math.closed_form`.
_SLASH = re.compile(r"(?<![A-Za-z0-9_.}^])([0-9]+) ?/ ?([0-9]+)(?![0-9.!^])")
_DIGIT_RUN = re.compile(rf"[0-9]{{{MAX_DIGITS},}}")
# Text and code, and commands that the parser would compute at once.
_INDEX_OF_A_NUMBER = re.compile(r"[0-9)}]\s*_")
_FOREIGN = re.compile(
    rf"__|[\"'`@#;?{OPEN}{CLOSE}]|[A-Za-z]{{3,}} [A-Za-z]{{3,}}|[A-Za-z]\.[A-Za-z]"
    r"|\\(?:ldots|operatorname|x?[Rr]ight[Aa]rrow|prod|sum|i*int|lim|begin|det|gcd|lcm|text|[hv]?phantom)(?![A-Za-z])|\\\|"
)

# Expressions are compared at these real points. Different textbook expressions do not agree at all
# of them by chance.
_POINTS = tuple(
    sympy.Rational(*point)
    for point in (
        (37, 29),
        (211, 97),
        (3, 1),
        (17, 23),
        (-41, 31),
        (7, 1),
        (-5, 7),
        (613, 59),
        (2, 1),
    )
)
_ENOUGH = 3
_DIGITS = 120
_TOLERANCE = sympy.Float("1e-100", _DIGITS)


class NotUnderstoodError(Exception):
    """Say that an expression exceeds the limits or that the parser cannot read it."""


def same_expression(answer: str, truth: str) -> bool:
    """Return whether two tidy texts are the same expression.

    Raises:
        NotUnderstoodError: one of them is too complex, or the parser cannot read it.
    """
    found, wanted = _parse(answer), _parse(truth)
    if found == wanted:
        return True
    if isinstance(found, sympy.Expr) and isinstance(wanted, sympy.Expr):
        result = _same_value(found, wanted, quantity(answer) or quantity(truth))
        if result is not None:
            return result
    names = [tree.free_symbols for tree in (found, wanted) if isinstance(tree, Boolean)]
    if len(names) < 2 or names[0] == names[1]:
        left, right = _set_of(found), _set_of(wanted)
        if left is not None and right is not None:
            return left == right or left.symmetric_difference(right).is_empty is True
    if isinstance(found, sympy.Eq) and isinstance(wanted, sympy.Eq):
        if _are_multiples(_difference(found), _difference(wanted)):
            return True
    return verify(
        wanted,
        found,
        strict=True,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=True,
    )


def _parse(text: str) -> sympy.Basic:
    """Return the tree of a tidy text. Relations joined by "or" become their set of solutions."""
    if " or " in text:
        sets = [_set_of(_parse(part)) for part in text.split(" or ")]
        if None in sets:
            raise NotUnderstoodError(f"{text[:80]!r} is not a set")
        return sympy.Union(*sets)
    _check_text(text)
    latex = _PLAIN_FUNCTION.sub(r"\\\1 ", _INFINITY.sub(r"\\infty ", text.replace("**", "^")))
    latex = _SLASH.sub(r"\\frac{\1}{\2}", latex)
    latex = _ROOT_OF_BRACKETS.sub(r"\\sqrt{\1}", latex.replace("*", r" \cdot "))
    is_complex = _IMAGINARY_UNIT.search(latex) is not None
    try:
        tree = latex2sympy(
            normalize_latex(latex, config=_NORMALIZATION),
            is_real=not is_complex,
            convert_degrees=_OF_AN_ANGLE.search(latex) is not None,
            normalization_config=None,
        )
    except MemoryError:
        raise
    # The grammar and sympy raise many kinds of errors, among them a bare Exception.
    except Exception as error:
        raise NotUnderstoodError(f"the parser cannot read {text[:80]!r}") from error
    if not isinstance(tree, sympy.Basic):
        raise NotUnderstoodError(f"{text[:80]!r} is not an expression")
    _check_tree(tree)
    if is_complex:
        symbols = cast("set[sympy.Symbol]", tree.free_symbols)
        tree = tree.xreplace({symbol: sympy.I for symbol in symbols if symbol.name == "i"})
    if tree.has(sympy.zoo, sympy.nan) or (isinstance(tree, Boolean) and not tree.free_symbols):
        raise NotUnderstoodError(f"{text[:80]!r} has no value")
    return tree.replace(lambda node: node.is_Float, lambda node: sympy.Rational(str(node)))


def _set_of(tree: sympy.Basic) -> sympy.Set | None:
    """Return the solutions of a relation in one variable, or the tree itself if it is a set."""
    if isinstance(tree, sympy.Set):
        return tree
    if not isinstance(tree, Boolean) or tree.atoms(AppliedUndef):
        return None
    if len(tree.free_symbols) == 1:
        # If sympy cannot solve it, math-verify compares it.
        with contextlib.suppress(NotImplementedError, TypeError, ValueError):
            return tree.as_set()
    return None


def _check_text(text: str) -> None:
    """Refuse a text on which the parser would take too long, or which it would misread."""
    if len(text) > MAX_CHARS or _DIGIT_RUN.search(text):
        raise NotUnderstoodError(f"more than {MAX_CHARS} characters or {MAX_DIGITS} digits")
    if index := _INDEX_OF_A_NUMBER.search(text):
        raise NotUnderstoodError(f"{index[0]!r} gives a number an index")
    if foreign := _FOREIGN.search(text):
        raise NotUnderstoodError(f"{foreign[0]!r} is not accepted as mathematics")


def _check_tree(tree: sympy.Basic) -> None:
    """Refuse powers and factorials that would fill the memory, the innermost ones first."""
    for node in sympy.postorder_traversal(tree):
        size = None
        if isinstance(node, sympy.Pow):
            size = node.exp
        elif isinstance(node, sympy.factorial | sympy.gamma | sympy.binomial):
            size = cast("sympy.Expr", node.args[0])
        if size is not None and size.is_number and abs(size.evalf(5)) > MAX_EXPONENT:
            raise NotUnderstoodError(f"an exponent or a factorial of more than {MAX_EXPONENT}")


def _same_value(found: sympy.Expr, wanted: sympy.Expr, decimal: Quantity | None) -> bool | None:
    """Return whether two expressions have the same values; None if too few can be computed."""
    if not found.free_symbols | wanted.free_symbols:
        exact = found.doit(), wanted.doit()
        if all(isinstance(value, sympy.Rational) for value in exact) and not decimal:
            return exact[0] == exact[1]
        left, right = found.evalf(_DIGITS), wanted.evalf(_DIGITS)
        if not (left.is_number and right.is_number and left.is_finite and right.is_finite):
            return None
        if decimal and decimal.significant >= DIGITS_OF_AN_APPROXIMATION:
            return bool(abs(left - right) < decimal.last_place)
        return _near(left, right)
    pairs = list(_values(found, wanted))
    if len(pairs) < _ENOUGH:
        return None
    return all(_near(left, right) for left, right in pairs)


def _difference(equation: sympy.Eq) -> sympy.Expr:
    left, right = equation.args
    return cast("sympy.Expr", left) - cast("sympy.Expr", right)


def _are_multiples(found: sympy.Expr, wanted: sympy.Expr) -> bool:
    """Return whether one expression is the other one times a constant that is not 0."""
    pairs = list(_values(found, wanted))
    if len(pairs) < _ENOUGH or any(_near(value, sympy.S.Zero) for pair in pairs for value in pair):
        return False
    first, *others = [left / right for left, right in pairs]
    return all(_near(first, other) for other in others)


def _values(found: sympy.Expr, wanted: sympy.Expr) -> Iterator[tuple[sympy.Expr, sympy.Expr]]:
    """Yield both values at each point where both exist and, unless i occurs, are real."""
    is_complex = found.has(sympy.I) or wanted.has(sympy.I)
    symbols = sorted(found.free_symbols | wanted.free_symbols, key=str)
    for start in range(len(_POINTS)):
        at = {s: _POINTS[(start + 4 * i) % len(_POINTS)] for i, s in enumerate(symbols)}
        sides = (cast("sympy.Expr", side.xreplace(at)) for side in (found, wanted))
        pair = [side.evalf(_DIGITS) for side in sides]
        if all(value.is_number and value.is_finite for value in pair):
            if is_complex or all(value.is_real for value in pair):
                yield pair[0], pair[1]


def _near(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Return whether two values agree to 100 digits."""
    left, right = _without_noise(left), _without_noise(right)
    return bool(abs(left - right) <= max(abs(left), abs(right)) * _TOLERANCE)


def _without_noise(value: sympy.Expr) -> sympy.Expr:
    """Return a value, or 0 if all its digits cancelled. sympy then gives a precision of one bit."""
    parts = (sympy.S.Zero if getattr(x, "_prec", 0) == 1 else x for x in value.as_real_imag())
    real, imaginary = parts
    return real + sympy.I * imaginary
