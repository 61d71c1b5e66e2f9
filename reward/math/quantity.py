"""Read numbers as exact fractions, with the units after them."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from reward.math.notation import CLOSE, MAX_CHARS, NAME, OPEN, squeeze, tidy

# Larger numbers keep their spelling, because Python prints at most 4300 digits.
MAX_BITS = 10_000

_PLAIN_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_SIGNED = rf"([-+]? ?{_DECIMAL})"
_PLAIN = re.compile(rf"{_DECIMAL}")
_FRACTION = re.compile(rf"\\frac ?\{{ ?{_SIGNED} ?\}} ?\{{ ?{_SIGNED} ?\}}|{_SIGNED} ?/ ?{_SIGNED}")
_MIXED = re.compile(
    r"([0-9]+) ?\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\}|([0-9]+) ([0-9]+) ?/ ?([0-9]+)"
)
_SCIENTIFIC = re.compile(
    rf"({_DECIMAL})(?: ?(?:\\cdot|\*|x) ?10 ?\^ ?\{{? ?|[eE])([-+]?[0-9]{{1,3}}) ?\}}?"
)
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*) ?\\(?:overline|bar|dot) ?\{?([0-9]+)\}?")

# Only spellings that cannot be variables: `5m` and `5 g` stay expressions, `5 \text{ m}` does not.
_SPELLINGS_OF_UNITS = {
    "%": ("%", r"\%", "percent", "percentage", "pct"),
    "\u00b0": ("\u00b0", r"^\circ", "degree", "degrees", "deg"),
    "cm": ("cm", "centimeter", "centimeters"),
    "mm": ("mm", "millimeter", "millimeters"),
    "km": ("km", "kilometer", "kilometers"),
    "kg": ("kg", "kilogram", "kilograms"),
    "in": ("inch", "inches"),
    "ft": ("ft", "foot", "feet"),
    "m": ("meter", "meters", "metre", "metres"),
    "mi": ("mile", "miles"),
    "s": ("second", "seconds", "sec"),
    "min": ("minute", "minutes"),
    "h": ("hour", "hours", "hrs"),
    "day": ("day", "days"),
    "dollar": ("dollar", "dollars", "usd"),
    "cent": ("cent", "cents"),
    "unit": ("unit", "units"),
    "mi/h": ("mph",),
}
_UNITS = {
    spelling: unit for unit, spellings in _SPELLINGS_OF_UNITS.items() for spelling in spellings
}
# These are units only inside \text{...}.
_LETTER_UNITS = {
    "m": "m",
    "s": "s",
    "h": "h",
    "g": "g",
    "hr": "h",
    "l": "l",
    "min": "min",
    "in": "in",
}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_POWER = re.compile(r"\^\{?([23])\}?$")
_SYMBOL = re.compile(r"(\\?%|\^ ?\{? ?\\circ ?\}?|\u00b0)$")
_OF_AN_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_WORDS_AT_END = re.compile(r"(?:(?<=[0-9}]) ?| )([A-Za-z]{2,}(?: [A-Za-z]{2,}){0,3})$")
# These words change the number or say something else.
_NO_UNIT = re.compile(
    r"\b(?:and|or|not|if|for|where|else|otherwise|is|are|of|to|than|less|more|minus|plus|times|over"
    r"|divided|by|power|factorial|dozen|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven"
    r"|twelve|\w+teen|\w+ty|\w*(?:hundred|thousand|illion)s?|half|halves|quarters?|\w*thirds?"
    r"|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?"
    r"|alpha|beta|gamma|delta|theta|lambda|sqrt|infinity|pi)\b"
    r"|\b[ienxyz]\b|(?:\w+ ){3}|[0-9,:=<>]"
)
_UNIT_TOKEN = re.compile(r"[A-Za-z]+|[/\u00b0%]")


class Quantity(NamedTuple):
    """Hold a number, its unit, and how precisely it was written.

    Attributes:
        value: the exact value.
        unit: the name of its unit, or "".
        significant: the significant digits of a decimal fraction; 0 for integers and fractions.
        last_place: the value of one unit in its last decimal place; 0 for integers and fractions.
    """

    value: Fraction
    unit: str = ""
    significant: int = 0
    last_place: Fraction = Fraction(0)


def normalise(answer: str) -> str:
    """Return the form in which answers are counted as votes. Numbers become `-17/2` or `34`."""
    if _PLAIN_INTEGER.fullmatch(answer):
        return str(int(answer))
    if len(answer) > MAX_CHARS:
        return answer.strip()
    text = tidy(answer)
    if (named := NAME.fullmatch(text)) and "=" not in named[2]:
        text = named[2]
    found = quantity(text)
    if found is None or max(map(int.bit_length, found.value.as_integer_ratio())) > MAX_BITS:
        return squeeze(text)
    return f"{found.value}{found.unit}"


@lru_cache(maxsize=4096)
def split_unit(text: str) -> tuple[str, str]:
    """Split a tidy text into the text before a unit at its end and the unit's name, or ""."""
    body, unit = _split_unit(text)
    return (text, "") if unit and _split_unit(body)[1] else (body, unit)


def _split_unit(text: str) -> tuple[str, str]:
    power = _POWER.search(text)
    body = text[: power.start()].rstrip() if power else text
    exponent = f"^{power[1]}" if power else ""
    if body.endswith(CLOSE) and (start := body.rfind(OPEN)) > 0:
        words = body[start + 1 : -1]
        unit = "" if _NO_UNIT.search(words) else _unit(words, {**_UNITS, **_LETTER_UNITS})
        return (body[:start].rstrip(), f"{unit}{exponent}") if unit else (text, "")
    if not power and (symbol := _SYMBOL.search(text)) and not _OF_AN_ANGLE.search(text):
        return text[: symbol.start()].rstrip(), _UNITS["%" if "%" in symbol[0] else "degree"]
    if words := _WORDS_AT_END.search(body, max(0, len(body) - 80)):
        unit = _unit(words[1], _UNITS)
        is_known = set(_UNIT_TOKEN.findall(unit)) <= set(_UNITS.values())
        is_word = len(words[1]) > 3 and words[1].isalpha() and words[1].islower()
        if not unit or _NO_UNIT.search(words[1]):
            return text, ""
        if is_known or (is_word and _signed(body[: words.start()].rstrip())):
            return body[: words.start()].rstrip(), f"{unit}{exponent}"
    return text, ""


def _unit(words: str, names: dict[str, str]) -> str:
    """Return one name for a unit, such as `m^2` for `square meters`."""
    power, parts = "", []
    for token in _UNIT_TOKEN.findall(words):
        if token.lower() in _POWERS:
            power = _POWERS[token.lower()]
        else:
            part = "/" if token.lower() == "per" else token
            parts.append(names.get(part) or names.get(part.lower()) or part.lower())
    return "".join(parts) + power if parts else ""


def quantity(text: str) -> Quantity | None:
    """Read a tidy text as one number with its unit. Return None for anything else."""
    body, unit = split_unit(text)
    while len(body) > 2 and body[0] + body[-1] in ("()", "{}") and "," not in body:
        body = body[1:-1].strip()
    number = _signed(body)
    return number and number._replace(unit=unit)


def _signed(body: str) -> Quantity | None:
    """Read a text as a number without a unit."""
    is_negative = body.startswith("-")
    number = _number(body[1:].lstrip() if body.startswith(("-", "+")) else body)
    return number and number._replace(value=-number.value if is_negative else number.value)


def _number(body: str) -> Quantity | None:
    """Read a text as a number without a unit or a sign."""
    if _PLAIN.fullmatch(body):
        whole, _, places = body.replace(",", "").partition(".")
        significant = len((whole + places).lstrip("0")) if places else 0
        last_place = Fraction(int(significant > 0), 10 ** len(places))
        return Quantity(_fraction(body), "", significant, last_place)
    if match := _FRACTION.fullmatch(body):
        above, below = (_fraction(part) for part in match.groups() if part)
        value = above / below if below else None
    elif match := _MIXED.fullmatch(body):
        whole, above, below = (_fraction(part) for part in match.groups() if part)
        value = whole + above / below if below else None
    elif match := _SCIENTIFIC.fullmatch(body):
        power = Fraction(10) ** int(match[2])
        mantissa = _number(match[1])
        return mantissa and mantissa._replace(
            value=mantissa.value * power, last_place=mantissa.last_place * power
        )
    elif match := _REPEATING.fullmatch(body):
        whole, places, period = match.groups()
        nines = 10 ** len(places) * (10 ** len(period) - 1)
        value = _fraction(f"{whole or 0}.{places or 0}") + Fraction(int(period), nines)
    else:
        return None
    return None if value is None else Quantity(value)


def _fraction(digits: str) -> Fraction:
    """Return the value of a decimal that matches `_SIGNED`."""
    return Fraction(digits.replace(",", "").replace(" ", ""))
