r"""Decide whether an answer equals the ground truth.

Structure and exact numbers come first. `same` asks its `leaf` only about what remains. With the
leaf `undecided` it is the fast path. In microseconds it decides numbers, words, polynomials with
square roots and pi, and lists, tuples, sets, intervals and matrices of them. It returns None if
only symbolic mathematics can decide. With the leaf `reward.math.symbolic.same_expression` it always
decides.

This is our own and not a library such as math-verify because the rules of `same` are a policy of
the reward: each verdict has to be explained, tested and kept stable. math-verify only parses and
compares what remains.
"""

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise

from reward.math.closed_form import DIGITS_OF_AN_APPROXIMATION, NUMBER, closed_form
from reward.math.notation import CLOSE, ELLIPSIS, MAX_CHARS, NAME, OPEN, squeeze, tidy
from reward.math.quantity import Quantity, quantity, split_unit
from reward.math.structure import (
    Parts,
    as_interval,
    depth,
    is_symbolic_set,
    put_together,
    split_list,
    take_apart,
)

Leaf = Callable[[str, str], bool | None]

INTERVALS = ("()", "(]", "[)", "[]")
MAX_ITEMS = 64
MAX_DEPTH = 16
# At most this many letters outside \text{...} are a product of variables.
LONGEST_PRODUCT = 3

_INTEGER = re.compile(r"-?[0-9]{1,18}")
# An answer may name its value by an expression: `m + n = 480`. But `2m + n = 480` is an equation.
# The ground truth may name its value in capitals: `AB:CD = 3:4`.
_STATES_A_VALUE = re.compile(r"(?=[^=]*[A-Za-z])(?:[^=<>0-9]|(?<=_)[0-9]|(?<=_\{)[0-9])+=")
_CONSTANTS = re.compile(r"(?:\\(?:sqrt|frac|pi|cdot)|[^=<>A-Za-z\\])+(?:=[^=]+)+")
_CAPITALS = re.compile(r"(?:\\frac|\\cdot|_\{?[A-Za-z0-9]++\}?|[A-Z|:/{} ])++=")
_CHOICE = re.compile(rf"{OPEN}?\(([A-J])\) ?{CLOSE}?+ ?+(.+)")
_INFINITE = re.compile(r"[-+]? ?\\infty")
_CLOCK = re.compile(r"(?:[01]?[0-9]|2[0-4])(?::[0-5][0-9])+(?![0-9])")
_LETTER = re.compile(rf" ?{OPEN}([A-Za-z]){CLOSE}")
_BASED = re.compile(r"\(?(?:[0-9][0-9A-Fa-f]*|[A-F][0-9A-F]+)\)?_\{?[0-9]{1,2}\}?")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '.-]{1,2}[^\W\d_]+)*")


def undecided(_answer: str, _truth: str) -> None:
    """Return None: the fast path uses no symbolic mathematics."""


def same(answer: str, truth: str, leaf: Leaf = undecided) -> bool | None:
    r"""Return whether an answer equals the ground truth, or None if the leaf could not decide.

    - Numbers are compared as exact fractions. A rounded decimal does not equal the fraction.
      Exception: a decimal with 12 or more significant digits equals a number that has no finite
      decimal expansion if they differ by less than one unit in its last place.
    - A unit may be missing on one side, but two units must agree. A percentage is never rescaled:
      `50\%` equals `50`, where the unit is missing, but not `0.5`.
    - The order of a bare list or a set is free. The order of a tuple is fixed. No item may be
      missing. A repeated item counts once, unless the truth is a bare list that repeats an item. A
      bare list equals a tuple in the same order, but no interval with a closed end.
    - An ellipsis is part of an answer: `1, 2, ...` is not `1, 2`, and `3.14...` is not 3.14.
    - `2:4` equals `1:2`, unless the truth may be a time of day, such as `10:30`.
    - Brackets of intervals matter: `(0,1]` is not `[0,1]`.
    - Answers longer or more deeply nested than the limits must be equal as written.
    - Case does not matter in words. `x = 5` equals `5`, but not `y = 5`. An equation with two
      values, such as `x = 3 = 4`, equals neither.
    - The base of a number may be missing like a unit: `1101_2` equals `1101`, but not `1101_3`.

    Args:
        answer: the answer of the response.
        truth: the ground truth.
        leaf: compares two tidy texts that are left after all these rules.

    Raises:
        ArithmeticError, RecursionError, ValueError: the answer cannot be read.
    """
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(truth):
        return int(answer) == int(truth)
    if max(len(answer), len(truth)) > MAX_CHARS:
        return answer.strip() == truth.strip()
    answer, truth = tidy(answer), tidy(truth)
    if any(len(text) > MAX_CHARS or depth(text) > MAX_DEPTH for text in (answer, truth)):
        return answer == truth
    return _same(answer, truth, leaf)


def within(answer: str, truth: str, tolerance: Fraction) -> bool:
    """Return whether two numbers differ by at most a tolerance; their units must not differ.

    `x = 4.2` is a number too, but `x = 5 = 4.2` is none.

    Raises:
        ArithmeticError, RecursionError, ValueError: the answer cannot be read.
    """
    if answer.count("=") > 1:
        return False
    found, wanted = (quantity(_last(tidy(text[:MAX_CHARS]))) for text in (answer, truth))
    if not found or not wanted or (found.unit and wanted.unit and found.unit != wanted.unit):
        return False
    return abs(found.value - wanted.value) <= tolerance


def _same(answer: str, truth: str, leaf: Leaf) -> bool | None:
    if squeeze(answer) == squeeze(truth):
        return True
    answer, truth = _exact_side(answer), _exact_side(truth)
    if (choice := _CHOICE.fullmatch(answer)) and len(truth) > 1:
        answer = choice[2]
    found, wanted = quantity(answer), quantity(truth)
    if found and wanted:
        return _same_number(found, wanted)
    if ("=" in answer or "=" in truth) and len(split_list(answer)) == len(split_list(truth)) == 1:
        values = _without_names(answer, truth)
        if values != (answer, truth):
            return not _contradicts_itself(answer) and _same(*values, leaf)
        if "=" not in truth and _CONSTANTS.fullmatch(answer):  # `\sqrt{4} = 2`, if both sides agree
            return _all(_same(side.strip(), truth, leaf) for side in answer.split("="))
    left, right = take_apart(answer), take_apart(truth)
    if left.kind in INTERVALS and not right.kind:
        right = as_interval(truth) or right
    elif right.kind in INTERVALS and not left.kind:
        left = as_interval(answer) or left
    if left.kind or right.kind:
        return _same_parts(left, right, leaf)
    return _same_item(left.items[0], right.items[0], leaf)


def _same_number(found: Quantity, wanted: Quantity) -> bool:
    if found.unit and wanted.unit and found.unit != wanted.unit:
        return False
    if found.value == wanted.value:
        return True
    for decimal, other in ((found, wanted), (wanted, found)):
        if decimal.significant >= DIGITS_OF_AN_APPROXIMATION and not _terminates(other.value):
            return abs(decimal.value - other.value) < decimal.last_place
    return False


def _terminates(value: Fraction) -> bool:
    """Return whether a number has a finite decimal expansion."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _without_names(answer: str, truth: str) -> tuple[str, str]:
    """Return the values of `x = 5` and `5`, or of `x = 5` and `x = 6`; keep other pairs."""
    left, right = NAME.fullmatch(_turned(answer)), NAME.fullmatch(_turned(truth))
    if left and right and squeeze(left[1]) == squeeze(right[1]):
        return _last(left[2]), _last(right[2])
    if "=" not in truth and _STATES_A_VALUE.match(answer):
        return _last(left[2] if left else answer), truth
    if "=" not in answer and (right or _CAPITALS.match(truth)):
        return answer, _last(right[2] if right else truth)
    return answer, truth


def _exact_side(text: str) -> str:
    r"""Turn `\sqrt{2} \approx 1.41` into `\sqrt{2}`, but `x \approx 1.41` into `x = 1.41`."""
    exact, approximately, value = text.partition("\u2248")
    is_name = not approximately or NAME.fullmatch(f"{exact.strip()} = 0")
    return f"{exact.strip()} = {value.strip()}" if approximately and is_name else exact.strip()


def _turned(equation: str) -> str:
    """Turn `5 = x` into `x = 5`."""
    value, equals, name = equation.partition("=")
    return f"{name.strip()} = {value}" if equals and quantity(value.strip()) else equation


def _last(chain: str) -> str:
    """Return the last side of `a = b = c`."""
    return chain.rpartition("=")[2].strip()


def _contradicts_itself(chain: str) -> bool:
    """Return whether a chain such as `x = 3 = 4` gives two values that differ beyond rounding."""
    *sides, last = (_exact(side.strip()) for side in chain.split("="))
    if last is None:
        return False
    place = last.last_place or int(last.value.denominator == 1)
    return any(
        side.value != last.value and abs(side.value - last.value) >= max(side.last_place, place)
        for side in sides
        if side and side.unit == last.unit
    )


def _exact(side: str) -> Quantity | None:
    """Read a side of an equation as a number. Skip sums of decimals, which may be rounded."""
    if found := quantity(side):
        return found
    value = None if "." in side else closed_form(side)
    if value is None or value.keys() - {NUMBER}:
        return None
    return Quantity(value.get(NUMBER, Fraction(0)))


def _same_parts(answer: Parts, truth: Parts, leaf: Leaf) -> bool | None:
    kinds = {answer.kind, truth.kind}
    if max(len(answer.items), len(truth.items)) > MAX_ITEMS:
        return False
    if kinds == {"matrix"}:
        return _same_rows(answer, truth, leaf)
    if kinds == {"cup"} and _same_set(answer, truth, leaf):
        return True
    if "matrix" not in kinds and ("cup" in kinds or any(map(is_symbolic_set, (answer, truth)))):
        return leaf(put_together(answer), put_together(truth))
    if kinds <= {",", "{}"}:
        return _same_set(answer, truth, leaf)
    if len(answer.items) != len(truth.items):
        return False
    if "" in kinds:  # the other side may be a set with one item
        return kinds <= {"", "{}"} and _same(answer.items[0], truth.items[0], leaf)
    if answer.kind == truth.kind or kinds == {",", "()"}:
        return _same_order(answer.items, truth.items, leaf)
    # Two items in square brackets are an interval, unless the truth is a bare list.
    is_interval = len(truth.items) == 2 and not (answer.kind == "[]" and truth.kind == ",")
    if kinds <= {"()", "[]", ","} and not is_interval:
        return _same_order(answer.items, truth.items, leaf)
    return False


def _same_order(answer: Iterable[str], truth: Iterable[str], leaf: Leaf) -> bool | None:
    return _all(_same(a, t, leaf) for a, t in zip(answer, truth, strict=True))


def _same_rows(answer: Parts, truth: Parts, leaf: Leaf) -> bool | None:
    grids = [[row.split("&") for row in side.items] for side in (answer, truth)]
    if [len(row) for row in grids[0]] != [len(row) for row in grids[1]]:
        return False
    found, wanted = ([cell.strip() for row in grid for cell in row] for grid in grids)
    return _same_order(found, wanted, leaf)


def _same_set(answer: Parts, truth: Parts, leaf: Leaf) -> bool | None:
    """Return whether both sides have the same items in any order.

    A repeated item counts once in a set. In a list it counts once unless the truth repeats an item.
    """
    free, all_wanted = (list(map(squeeze, side.items)) for side in (answer, truth))
    repeats = len(set(all_wanted)) < len(all_wanted)
    if answer.kind + truth.kind != ",," or (len(free) != len(all_wanted) and not repeats):
        free, all_wanted = list(dict.fromkeys(free)), list(dict.fromkeys(all_wanted))
    if len(free) != len(all_wanted):
        return False
    is_open = False
    for wanted in all_wanted:
        results = [_same(item, wanted, leaf) for item in free]
        if True in results:
            free.pop(results.index(True))
        elif None in results:
            is_open = True
        else:
            return False
    return None if is_open else True


def _all(results: Iterable[bool | None]) -> bool | None:
    is_open = False
    for result in results:
        if result is False:
            return False
        is_open |= result is None
    return None if is_open else True


def _same_item(answer: str, truth: str, leaf: Leaf) -> bool | None:
    if ("=" in answer) != ("=" in truth):
        return False
    left, right = _words(answer), _words(truth)
    if left and right and max(len(answer), len(truth)) > LONGEST_PRODUCT:
        return left == right
    if max(len(left), len(right)) > LONGEST_PRODUCT and (quantity(answer) or quantity(truth)):
        return False
    if ":" in answer and ":" in truth:
        return _same_ratio(answer, truth, leaf)
    answer_body, answer_unit = split_unit(answer)
    truth_body, truth_unit = split_unit(truth)
    if answer_unit and truth_unit and answer_unit != truth_unit:
        return False
    if (answer_body, truth_body) != (answer, truth):
        return _same_product(answer, truth) or _same(answer_body, truth_body, leaf)
    if ELLIPSIS in answer or ELLIPSIS in truth:
        return False
    if _BASED.fullmatch(answer) or _BASED.fullmatch(truth):
        return _same_base(answer, truth)
    exact = closed_form(answer), closed_form(truth)
    if None not in exact:
        return exact[0] == exact[1]
    if exact != (None, None) and (_INFINITE.fullmatch(answer) or _INFINITE.fullmatch(truth)):
        return False
    return leaf(answer, truth)


def _same_ratio(answer: str, truth: str, leaf: Leaf) -> bool | None:
    """Compare ratios such as `2:4` and `1:2`. Compare possible times of day as written."""
    found, wanted = ([part.strip() for part in side.split(":")] for side in (answer, truth))
    if len(found) != len(wanted):
        return False
    as_written = _same_order(found, wanted, leaf)
    if as_written or _CLOCK.match(truth):
        return as_written
    ratios, others = (
        [closed_form(rf"\frac{{{a}}}{{{b}}}") for a, b in pairwise(side)]
        for side in (found, wanted)
    )
    return True if None not in ratios and ratios == others else as_written


def _same_product(answer: str, truth: str) -> bool:
    r"""Return whether two sides are one product, like `5\mathrm{m}` and `5m` for a variable m."""
    plain = _LETTER.sub(r" \1", answer), _LETTER.sub(r" \1", truth)
    if plain == (answer, truth):
        return False
    found, wanted = map(closed_form, plain)
    return found is not None and found == wanted


def _words(text: str) -> str:
    """Return the words of an answer that has only words, else ""."""
    text = text.replace(ELLIPSIS, "").strip(f"{OPEN}{CLOSE}() .")
    return text.casefold() if _WORDS.fullmatch(text) else ""


def _same_base(answer: str, truth: str) -> bool:
    (found, _, base), (wanted, _, other) = answer.partition("_"), truth.partition("_")
    same_base = base.strip("{}") == other.strip("{}") or not base or not other
    found, wanted = (digits.strip("() ").lower().lstrip("0") for digits in (found, wanted))
    return same_base and found == wanted
