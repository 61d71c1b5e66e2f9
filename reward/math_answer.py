r"""Find the answer that a response states and decide whether it equals the ground truth.

Numbers are compared exactly, as fractions; everything else as normalised strings, so `2\sqrt{2}`
and `\sqrt{8}` differ here. Nothing is ever evaluated, and every scan is linear in the length of
the response.
"""

import re
import string
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from itertools import groupby
from typing import Literal, NamedTuple

Style = Literal["answer_line", "boxed"]

# A longer answer is compared as written: NFKC is quadratic in combining marks, and int() refuses
# more than 4300 digits.
MAX_CHARS = 4096

_BRACE = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\[{}]|([{}])")
_MARKER = re.compile(r"answer[ \t*_]*[:\uff1a]", re.IGNORECASE)
_END_OF_TURN = re.compile(r"<[|\uff5c][^<>]{1,40}[|\uff5c]>|</s>|<end_of_turn>|<eos>")
_MATH_DELIMITER = re.compile(r"\\?\$|\\[()\[\]]")
_PLACEHOLDER = re.compile(r"[\W_]*answer\b", re.IGNORECASE)
_CUT_OFF = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKUP = string.whitespace + '*_`"'

# By tag of Unicode's decomposition; NFKC alone would make 52 of 5\u00b2 and 31/2 of 3\u00bd.
_SCRIPTS = {"<super>": "^{%s}", "<sub>": "_{%s}"}
_APART = ("<fraction>", "<circle>")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u2044\u2215", "/"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None),
    }
)

_DIGIT_GROUP = re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
_FONT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\[,;:! ]|~|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])")
_FRACTION_TOP = re.compile(r"\\frac\s*([0-9])")
_FRACTION_BOTTOM = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9])")
_ONE_CHARACTER_SCRIPT = re.compile(r"([\^_])\{(.)\}")
_NAMED = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_[0-9A-Za-z])? ?= ?(.+)")
_REDUNDANT_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")

_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"([-+]? ?{_DECIMAL})"
_QUANTITY = re.compile(
    rf"([-+]?) ?(?:\\frac ?\{{ ?{_SIGNED} ?\}} ?\{{ ?{_SIGNED} ?\}}"
    rf"|({_DECIMAL})(?: ?/ ?{_SIGNED})?)(.*)"
)

# Only what cannot be read as a variable: `5m` and `5 g` stay expressions.
_SPELLINGS_OF_UNITS = {
    "": ("",),
    "%": ("%", r"\%", "percent"),
    "°": ("°", r"^\circ", r"^{\circ}", r"\degree", "degree", "degrees"),
    "cm": ("cm",),
    "cm^2": ("cm^2",),
    "cm^3": ("cm^3",),
    "km": ("km",),
    "kg": ("kg",),
    "inch": ("inch", "inches"),
    "foot": ("foot", "feet"),
    "meter": ("meter", "meters"),
    "mile": ("mile", "miles"),
    "second": ("second", "seconds"),
    "minute": ("minute", "minutes"),
    "hour": ("hour", "hours"),
    "day": ("day", "days"),
    "dollar": ("dollar", "dollars"),
    "cent": ("cent", "cents"),
    "unit": ("unit", "units"),
}
_UNITS = {
    spelling: unit for unit, spellings in _SPELLINGS_OF_UNITS.items() for spelling in spellings
}


class Box(NamedTuple):
    r"""A complete `\boxed{...}`: where its command, its content and its closing brace begin."""

    start: int
    inner: int
    end: int


class Quantity(NamedTuple):
    """A number with the name of its unit, "" where it has none."""

    value: Fraction
    unit: str


def extract(response: str, style: Style) -> str | None:
    r"""The answer a response states, or None where it states none.

    Both forms are read in every response, and `style` says which is asked first; the other one
    speaks only if the first finds nothing.

    - "answer_line" (DAPO): what follows the last `Answer:`, on its line or, where only markup
      follows there, on the next line that holds more.
    - "boxed" (Polaris): the content of the last complete `\boxed{...}` or `\fbox{...}`.

    Markers that state nothing are passed over: empty, cut off, or echoed from the prompt, such
    as `Answer: $Answer`. A line with several different answers states them all, so it equals
    only a ground truth that is this list, never one guess in it.
    """
    for form in _FORMS[style]:
        if found := form(response):
            return found
    return None


def equal(answer: str, truth: str) -> bool:
    r"""Whether an answer is the ground truth: the same number, or the same normalised string.

    A unit may be missing on one side, but two units must agree: `5` equals `5\text{ cm}`, which
    differs from `5 km`. A percentage is never rescaled: `50\%` equals `50` and not `0.5`.

    Raises:
        ValueError: the ground truth is no string or states nothing. Scoring such a row 0 would
            hide that it is broken.
    """
    wanted = _read(truth) if isinstance(truth, str) else ""
    if wanted == "":
        raise ValueError(
            f"ground truth is {truth!r}; it must be a string that states an answer, such as "
            f"'34' or '\\frac{{1}}{{2}}'. Repair or drop this row of the data."
        )
    found = _read(answer)
    if isinstance(found, Quantity) and isinstance(wanted, Quantity):
        same_unit = found.unit == wanted.unit or "" in (found.unit, wanted.unit)
        return found.value == wanted.value and same_unit
    return found == wanted


def normalise(answer: str) -> str:
    """The form in which answers are compared and voted on; a number becomes `-17/2` or `34`."""
    found = _read(answer)
    return f"{found.value}{found.unit}" if isinstance(found, Quantity) else found


def _answer_line(response: str) -> str:
    """What the last `Answer:` that states something states, "" where none does."""
    pieces: list[str] = []
    is_waiting = False
    for line in response.splitlines():
        _, *tails = _MARKER.split(line)
        if tails:
            pieces = [piece for piece in map(_clean, tails) if piece] or pieces
            # Only a bare marker: the prompt's `after "Answer:".` announces nothing.
            is_waiting = not _MATH_DELIMITER.sub("", tails[-1]).strip(" \t*_")
        elif is_waiting and (piece := _clean(line)):
            pieces, is_waiting = [piece], False
    return _agreed(pieces)


def _boxed(response: str) -> str:
    """The last complete box that holds something, with the others of its line, else ""."""
    pieces: list[str] = []
    line_start, outer_start = 0, len(response)
    for start, inner, end in reversed(_boxes(response)):
        if end < line_start:
            break
        if end > outer_start:  # nested in a box already read
            continue
        outer_start = start
        if piece := _clean(response[inner:end]):
            if not pieces:
                line_start = response.rfind("\n", 0, start) + 1
            pieces.append(piece)
    return _agreed(pieces[::-1])


_FORMS: dict[Style, tuple[Callable[[str], str], ...]] = {
    "answer_line": (_answer_line, _boxed),
    "boxed": (_boxed, _answer_line),
}


def _agreed(pieces: list[str]) -> str:
    """The one answer that all pieces of a line give, or the list of them where they differ."""
    distinct = list(dict.fromkeys(pieces))
    if len({normalise(piece) for piece in distinct}) > 1:
        return ", ".join(distinct)
    return distinct[0] if distinct else ""


def _boxes(text: str) -> list[Box]:
    """All complete boxes, nested ones before the box that holds them."""
    boxes = []
    opened: list[tuple[int, int] | None] = []
    for token in _BRACE.finditer(text):
        if token[1]:
            opened.append(token.span())
        elif token[2] == "{":
            opened.append(None)
        elif token[2] == "}" and opened and (command := opened.pop()):
            boxes.append(Box(*command, token.start()))
    return boxes


def _unwrap(text: str) -> str:
    """The text with every complete box replaced by its content."""
    boxes = _boxes(text)
    cuts = sorted([box[:2] for box in boxes] + [(box.end, box.end + 1) for box in boxes])
    ends = [0, *(end for _, end in cuts)]
    starts = [*(start for start, _ in cuts), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _clean(text: str) -> str:
    """A piece of the response without markup, or "" where it states no answer."""
    text = _END_OF_TURN.split(text, maxsplit=1)[0]
    text = _MATH_DELIMITER.sub(" ", _unwrap(text))
    text = text.lstrip(_MARKUP).rstrip(_MARKUP + ".\u3002")
    return "" if _PLACEHOLDER.match(text) or _CUT_OFF.search(text) else text


def _read(answer: str) -> Quantity | str:
    """The number an answer is, or its normalised text where it is none."""
    if len(answer) > MAX_CHARS:
        return answer.strip()
    text = _tidy(answer)
    return _quantity(text) or _REDUNDANT_SPACE.sub("", text)


def _tidy(text: str) -> str:
    """The text with one spelling for what has many, its words one space apart."""
    text = unicodedata.normalize("NFKC", _spell_scripts(text)).translate(_CHARACTERS)
    text = _DIGIT_GROUP.sub(",", text.replace("{,}", ",").replace(r",\!", ","))
    # A space, not nothing: the parts of `3\text{4}` must not become one number.
    text = _FONT.sub(r" \1 ", text)
    text = _LAYOUT.sub(" ", _MATH_DELIMITER.sub(" ", text))
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    text = _FRACTION_TOP.sub(r"\\frac{\1}", text)
    text = _FRACTION_BOTTOM.sub(r"\1{\2}", text)
    text = _ONE_CHARACTER_SCRIPT.sub(r"\1\2", text)
    text = " ".join(text.split()).rstrip(" .")
    named = _NAMED.fullmatch(text)
    return named[1] if named else text


def _spell_scripts(text: str) -> str:
    """The text with raised and lowered characters in LaTeX, and those that are numbers apart."""
    parts = []
    for tag, run in groupby(text, key=lambda char: unicodedata.decomposition(char).split(" ")[0]):
        space = " " if tag in _APART else ""
        parts.append(_SCRIPTS.get(tag, f"{space}%s{space}") % space.join(run))
    return "".join(parts)


def _quantity(text: str) -> Quantity | None:
    """The number a tidy text is, with its unit, or None if it is anything more or else."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, left, right, rest = match.groups()
    unit = _UNITS.get(rest.replace(" ", ""))
    denominator = _fraction(bottom or right or "1")
    if unit is None or denominator == 0:
        return None
    value = _fraction(top or left) / denominator
    return Quantity(-value if sign == "-" else value, unit)


def _fraction(digits: str) -> Fraction:
    """The value of a decimal that `_DECIMAL` admitted, with its sign."""
    return Fraction(digits.replace(",", "").replace(" ", ""))
