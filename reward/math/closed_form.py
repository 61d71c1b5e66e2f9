r"""Read polynomials in letters and pi exactly, with square roots in their coefficients.

Square roots of different square-free integers are linearly independent over the rationals. Letters
and pi are independent of them and of each other. So two such sums are equal if and only if their
coefficients are equal.
"""

import re
from collections import Counter
from fractions import Fraction

# The letters (and pi) of a term with their powers, sorted.
Letters = tuple[tuple[str, int], ...]
# (square-free radicand, letters) -> coefficient, never 0. Powers may be negative.
Sum = dict[tuple[int, Letters], Fraction]

MAX_TOKENS = 80
MAX_TERMS = 64
MAX_RADICAND = 10**7
MAX_EXPONENT = 32
MAX_DIGITS = 30
MAX_BITS = 2000
# A decimal fraction with this many significant digits may be meant as an approximation.
DIGITS_OF_AN_APPROXIMATION = 12

NUMBER = (1, ())
# `e` and `i` are numbers and `f(x)` is no product, so they are left out.
_TOKEN = re.compile(
    rf" *(?:([0-9]{{1,{MAX_DIGITS}}}(?:\.[0-9]{{1,{MAX_DIGITS}}})?(?![0-9.]))"
    r"|([a-df-hj-zA-DF-HJ-Z](?![A-Za-z]{2,}|')|\\pi(?![A-Za-z]))"
    r"|(\\(?:frac|sqrt|cdot)(?![A-Za-z])|[-+*/^(){}]))"
)
_FUNCTION = re.compile(r"(?<![A-Za-z])[fghFGHPQ] ?\(")


class _NotASumError(Exception):
    """Say that a text is not such a sum."""


def closed_form(text: str) -> Sum | None:
    r"""Read a tidy text such as `2x + \frac{3\sqrt{5}}{4}\pi` as a sum. Return None for others."""
    if _FUNCTION.search(text):
        return None
    tokens, at = [], 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or len(tokens) == MAX_TOKENS:
            return None
        tokens.append(token[0].strip())
        at = token.end()
    reader = _Reader(tokens)
    try:
        found = reader.sum()
    except _NotASumError:
        return None
    return None if reader.next() else found


class _Reader:
    """Read tokens by recursive descent. `reward.math.equality.same` limits the nesting."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]
        self.is_behind_a_number = False

    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, wanted: str) -> None:
        if self.next() != wanted:
            raise _NotASumError
        self.tokens.pop()

    def sum(self) -> Sum:
        total = self.product()
        while self.next() in ("+", "-"):
            sign = Fraction(1 if self.tokens.pop() == "+" else -1)
            total = _added(total, _times(self.product(), {NUMBER: sign}))
        return total

    def product(self) -> Sum:
        sign = Fraction(1)
        while self.next() in ("+", "-"):
            sign *= 1 if self.tokens.pop() == "+" else -1
        value = _times(self.power(), {NUMBER: sign})
        while (token := self.next()) and token not in ("+", "-", ")", "}"):
            if token in ("*", "/", r"\cdot"):
                self.tokens.pop()
            elif token[0].isdigit() or (token == r"\frac" and self.is_behind_a_number):
                raise _NotASumError  # `2 3` is no product and `3\frac{1}{2}` is a mixed number
            factor = self.power()
            value = _times(value, _inverse(factor) if token == "/" else factor)
        return value

    def power(self) -> Sum:
        base = self.factor()
        if self.next() != "^":
            return base
        self.tokens.pop()
        times = _rational(self.factor())
        if times.denominator != 1 or not 0 < times <= MAX_EXPONENT:
            raise _NotASumError
        value = base
        for _ in range(int(times) - 1):
            value = _times(value, base)
        return value

    def factor(self) -> Sum:
        token = self.next()
        self.is_behind_a_number = token[:1].isdigit()
        if token in ("(", "{"):
            return self.bracket(token)
        if token in (r"\sqrt", r"\frac"):
            self.tokens.pop()
            inner = self.bracket("{")
            return _root(inner) if token == r"\sqrt" else _times(inner, _inverse(self.bracket("{")))
        if token[:1].isdigit():
            significant = len(token.replace(".", "").lstrip("0"))
            if "." in token and significant >= DIGITS_OF_AN_APPROXIMATION:
                raise _NotASumError
            self.tokens.pop()
            return {NUMBER: Fraction(token)} if Fraction(token) else {}
        if token == r"\pi" or token.isalpha():
            self.tokens.pop()
            return {(1, ((token, 1),)): Fraction(1)}
        raise _NotASumError

    def bracket(self, opening: str) -> Sum:
        self.take(opening)
        value = self.sum()
        self.take(")" if opening == "(" else "}")
        return value


def _rational(value: Sum) -> Fraction:
    if value.keys() - {NUMBER}:
        raise _NotASumError
    return value.get(NUMBER, Fraction(0))


def _added(left: Sum, right: Sum) -> Sum:
    keys = left.keys() | right.keys()
    sums = {key: left.get(key, Fraction(0)) + right.get(key, Fraction(0)) for key in keys}
    if len(sums) > MAX_TERMS:
        raise _NotASumError
    return {key: value for key, value in sums.items() if value}


def _times(left: Sum, right: Sum) -> Sum:
    if len(left) * len(right) > MAX_TERMS:
        raise _NotASumError
    total: Sum = {}
    for (a, letters), x in left.items():
        for (b, others), y in right.items():
            outside, inside = _extracted(a * b)
            powers = Counter(dict(letters))
            for name, power in others:
                powers[name] += power
            key = inside, tuple(sorted((name, power) for name, power in powers.items() if power))
            product = x * y * outside
            if max(product.numerator.bit_length(), product.denominator.bit_length()) > MAX_BITS:
                raise _NotASumError
            total[key] = total.get(key, Fraction(0)) + product
    return {key: value for key, value in total.items() if value}


def _inverse(value: Sum) -> Sum:
    if len(value) != 1:
        raise _NotASumError
    (((radicand, letters), coefficient),) = value.items()
    flipped = tuple((name, -power) for name, power in letters)
    return {(radicand, flipped): 1 / (coefficient * radicand)}


def _root(value: Sum) -> Sum:
    """Return the square root of a rational number that is not negative."""
    inside = _rational(value)
    if inside < 0:
        raise _NotASumError
    outside, radicand = _extracted(inside.numerator * inside.denominator)
    return {(radicand, ()): Fraction(outside, inside.denominator)} if inside else {}


def _extracted(number: int) -> tuple[int, int]:
    """Return (a, b) with number = a * a * b and b square-free."""
    if number > MAX_RADICAND:
        raise _NotASumError
    factors = Counter[int]()
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors[divisor] += 1
            number //= divisor
        divisor += 1
    factors[number] += 1
    outside = inside = 1
    for prime, times in factors.items():
        outside *= prime ** (times // 2)
        inside *= prime ** (times % 2)
    return outside, inside
