r"""Sums of rational multiples of square roots and powers of pi, exactly.

Square roots of different square-free integers are linearly independent over the rationals, and pi
is transcendental, so two such sums are equal just when their coefficients are.
"""

import re
from collections import Counter
from fractions import Fraction

# (square-free radicand, power of pi) -> coefficient, none of them 0.
Sum = dict[tuple[int, int], Fraction]

MAX_TOKENS = 64
MAX_RADICAND = 10**7
MAX_EXPONENT = 32
# A decimal fraction of more digits may be meant as an approximation.
MAX_DECIMALS = 11

_TOKEN = re.compile(
    rf" *(?:([0-9]+(?:\.[0-9]{{1,{MAX_DECIMALS}}})?(?![0-9.]))"
    r"|(\\(?:frac|sqrt|pi|cdot)(?![A-Za-z]))|([-+*/^(){}]))"
)


class _NotOneError(Exception):
    """The text is something else."""


def closed_form(text: str) -> Sum | None:
    r"""The sum that a tidy text is, such as `2 + \frac{3\sqrt{5}}{4}\pi`, or None."""
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or len(tokens) == MAX_TOKENS:
            return None
        tokens.append(token[0].strip())
        at = token.end()
    reader = _Reader(tokens)
    try:
        found = reader.sum()
    except _NotOneError:
        return None
    return None if reader.next() else found


class _Reader:
    """Reads tokens by recursive descent; brackets are nested as deep as `same` admits."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, wanted: str) -> None:
        if self.next() != wanted:
            raise _NotOneError
        self.tokens.pop()

    def sum(self) -> Sum:
        total = self.product()
        while self.next() in ("+", "-"):
            sign = Fraction(1 if self.tokens.pop() == "+" else -1)
            total = _added(total, _times(self.product(), {(1, 0): sign}))
        return total

    def product(self) -> Sum:
        sign = Fraction(1)
        while self.next() in ("+", "-"):
            sign *= 1 if self.tokens.pop() == "+" else -1
        value = _times(self.power(), {(1, 0): sign})
        while (token := self.next()) and token not in ("+", "-", ")", "}"):
            if token in ("*", "/", r"\cdot"):
                self.tokens.pop()
            factor = self.power()
            value = _times(value, _inverse(factor) if token == "/" else factor)
        return value

    def power(self) -> Sum:
        base = self.factor()
        if self.next() != "^":
            return base
        self.tokens.pop()
        exponent = self.factor()
        times = exponent.get((1, 0), Fraction(0))
        if set(exponent) - {(1, 0)} or times.denominator != 1 or not 0 < times <= MAX_EXPONENT:
            raise _NotOneError
        value = base
        for _ in range(int(times) - 1):
            value = _times(value, base)
        return value

    def factor(self) -> Sum:
        token = self.next()
        if token in ("(", "{"):
            return self.bracket(token)
        if token in (r"\pi", r"\sqrt", r"\frac"):
            self.tokens.pop()
            if token == r"\pi":
                return {(1, 1): Fraction(1)}
            inner = self.bracket("{")
            return _root(inner) if token == r"\sqrt" else _times(inner, _inverse(self.bracket("{")))
        if not token[:1].isdigit():
            raise _NotOneError
        self.tokens.pop()
        return {(1, 0): Fraction(token)} if Fraction(token) else {}

    def bracket(self, opening: str) -> Sum:
        self.take(opening)
        value = self.sum()
        self.take(")" if opening == "(" else "}")
        return value


def _added(left: Sum, right: Sum) -> Sum:
    keys = left.keys() | right.keys()
    sums = {key: left.get(key, Fraction(0)) + right.get(key, Fraction(0)) for key in keys}
    return {key: value for key, value in sums.items() if value}


def _times(left: Sum, right: Sum) -> Sum:
    total: Sum = {}
    for (a, p), x in left.items():
        for (b, q), y in right.items():
            outside, inside = _extracted(a * b)
            total = _added(total, {(inside, p + q): x * y * outside})
    return total


def _inverse(value: Sum) -> Sum:
    if len(value) != 1:
        raise _NotOneError
    ((radicand, power), coefficient) = next(iter(value.items()))
    return {(radicand, -power): 1 / (coefficient * radicand)}


def _root(value: Sum) -> Sum:
    """The square root of a positive rational number, or of 0."""
    if set(value) - {(1, 0)}:
        raise _NotOneError
    inside = value.get((1, 0), Fraction(0))
    if inside < 0:
        raise _NotOneError
    outside, radicand = _extracted(inside.numerator * inside.denominator)
    return {(radicand, 0): Fraction(outside, inside.denominator)} if inside else {}


def _extracted(number: int) -> tuple[int, int]:
    """(a, b) with number = a * a * b and b square-free."""
    if number > MAX_RADICAND:
        raise _NotOneError
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
