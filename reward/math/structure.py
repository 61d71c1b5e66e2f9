r"""Split an answer into parts: lists, tuples, sets, intervals, unions and matrices."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from reward.math.notation import CLOSE, OPEN

_BRACKET = re.compile(r"[()\[\]{}]")
_BRACKETS = ("()", "(]", "[)", "[]", "{}")
_BRACKET_OR = rf"([(\[{{]|{OPEN})|([)\]}}]|{CLOSE})"
_SEPARATOR = re.compile(rf"{_BRACKET_OR}|[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_UNION = re.compile(rf"{_BRACKET_OR}|\\cup(?![A-Za-z])|(?<=[)\]}}]) ?U ?(?=[(\[{{\\])")
_ELEMENT = re.compile(r"[A-Za-z] ?\\in(?![A-Za-z]) ?(.+)")
_MATRIX = re.compile(
    r"[(\[]? ?\\begin\{([bpB]?matrix|smallmatrix|array)\}(?: ?\{[clr| ]*\})?(.*)\\end\{\1\} ?[)\]]?"
)
_SIGNS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_SET_BUILDER = re.compile(r"[<>|:]|\\(?:le|ge|ne|mid|in|colon)(?![A-Za-z])")
_COMPARISON = re.compile(r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[a-df-hj-z](?![A-Za-z])")
_SET = re.compile(r"[<>]|\\(?:le|ge|ne|mathbb|emptyset|setminus|cap)(?![A-Za-z])")
_GROUP_BEHIND = re.compile(r",[0-9]{3}(?![0-9])")
_GROUP_BEFORE = re.compile(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})*$")


class Parts(NamedTuple):
    """Hold the parts of an answer.

    Attributes:
        kind: a pair of brackets such as "(]"; "{}" for a set; "," for a bare list; "cup" for a
            union; "matrix"; or "" for a single item.
        items: the items as tidy texts. The items of a matrix are rows, with & between cells.
    """

    kind: str
    items: tuple[str, ...]


def depth(text: str) -> int:
    """Return the greatest depth of nested brackets."""
    level = deepest = 0
    for bracket in _BRACKET.findall(text):
        level += 1 if bracket in "([{" else -1
        deepest = max(deepest, level)
    return deepest


def take_apart(text: str) -> Parts:
    r"""Split a tidy text into parts. In a list or a set, `a \pm b` becomes two items."""
    if element := _ELEMENT.fullmatch(text):
        text = element[1]
    if matrix := _MATRIX.fullmatch(text):
        rows = tuple(row.strip() for row in matrix[2].split(r"\\") if row.strip())
        return Parts("" if len(rows) == 1 and "&" not in rows[0] else "matrix", rows)
    unions = _split(text, _UNION)
    if len(unions) > 1:
        return Parts("cup", unions)
    items = split_list(text)
    if len(items) == 1 and (brackets := _brackets(text)):
        kind, content = brackets
        inner = split_list(content)
        if kind == "{}" and not _SET_BUILDER.search(content):
            return Parts(kind, tuple(_each_sign(inner)))
        if kind != "{}" and len(inner) > 1:
            return Parts(kind, inner)
        return Parts("", (content if kind == "()" else text,))
    signed = tuple(_each_sign(items))
    return Parts("," if len(signed) > 1 else "", signed)


def as_interval(text: str) -> Parts | None:
    r"""Read `x > a`, `a > x` or `a < x \le b` as an interval. Return None for anything else."""
    pieces = _COMPARISON.split(text)
    ends, signs = [piece.strip() for piece in pieces[::2]], pieces[1::2]
    is_less = {sign[0] == "<" or sign.startswith(r"\le") for sign in signs}
    if len(is_less) != 1 or not 2 <= len(ends) <= 3 or not all(ends):
        return None
    if is_less == {False}:
        ends, signs = ends[::-1], signs[::-1]
    closed = [sign.startswith("\\") for sign in signs]
    if len(ends) == 2:
        is_upper = _VARIABLE.fullmatch(ends[0]) is not None
        ends = [r"-\infty", *ends] if is_upper else [*ends, r"\infty"]
        closed = [False, *closed] if is_upper else [*closed, False]
    if not _VARIABLE.fullmatch(ends[1]) or any(_VARIABLE.search(end) for end in ends[::2]):
        return None
    return Parts("(["[closed[0]] + ")]"[closed[1]], (ends[0], ends[2]))


def put_together(parts: Parts) -> str:
    """Return the text of parts, for symbolic mathematics. Items of a list are relations."""
    if parts.kind in ("", ",", "cup"):
        return {"": "", ",": " or ", "cup": r" \cup "}[parts.kind].join(parts.items)
    left, right = (r"\{", r"\}") if parts.kind == "{}" else parts.kind
    return left + ", ".join(parts.items) + right


def is_symbolic_set(parts: Parts) -> bool:
    """Return whether parts are a set for symbolic mathematics, such as `x > 3`."""
    return parts.kind in ("", ",") and all(_SET.search(item) for item in parts.items)


def split_list(text: str) -> tuple[str, ...]:
    """Split a text at commas, semicolons, "and" and "or" outside brackets."""
    return _split(text, _SEPARATOR)


def _split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    pieces, depth, begin = [], 0, 0
    for token in separator.finditer(text):
        if token[1]:
            depth += 1
        elif token[2]:
            depth -= 1
        elif depth == 0 and not _groups_digits(text, token.start()):
            pieces.append(text[begin : token.start()].strip())
            begin = token.end()
    pieces.append(text[begin:].strip())
    return tuple(piece for piece in pieces if piece) or (text,)


def _groups_digits(text: str, at: int) -> bool:
    """Return whether a comma is part of a number such as 1,234."""
    behind = _GROUP_BEHIND.match(text, at)
    return behind is not None and _GROUP_BEFORE.search(text[max(0, at - 24) : at]) is not None


def _brackets(text: str) -> tuple[str, str] | None:
    r"""Return the brackets around the whole text and their content, or None.

    Braces without a backslash around one item only group it.
    """
    opening = 2 if text.startswith(r"\{") else 1
    closing = 2 if text.endswith(r"\}") else 1
    kind = text[opening - 1 : opening] + text[-1:]
    if kind not in _BRACKETS or len(text) < opening + closing:
        return None
    depth = 0
    for at in range(opening - 1, len(text) - 1):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return None
    content = text[opening : len(text) - closing].strip()
    is_group = kind == "{}" and opening == 1 and len(split_list(content)) == 1
    return ("()" if is_group else kind), content


def _each_sign(items: tuple[str, ...]) -> Iterator[str]:
    for item in items:
        if _SIGNS.search(item):
            for plus, minus in ("+-", "-+"):
                signs = {"pm": plus, "mp": minus}
                signed = _SIGNS.sub(lambda sign, signs=signs: signs[sign[1]], item)
                yield re.sub(r"(^|=) ?\+ ?", r"\1", signed)
        else:
            yield item
