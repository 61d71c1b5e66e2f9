r"""Rewrite LaTeX, Unicode and plain text in one spelling.

Nothing is evaluated, and every scan takes time linear in the text.
"""

import re
import unicodedata
from functools import lru_cache
from itertools import groupby

# Longer answers are compared as written. NFKC takes quadratic time in combining marks, and int()
# refuses more than 4300 digits.
MAX_CHARS = 4096

# These marks enclose the content of \text{...}: words, not products of variables.
OPEN, CLOSE = "\u27e6", "\u27e7"

# The one spelling of "and so on".
ELLIPSIS = r"\ldots"

# A name and its value: `x = 5`, `f(x) = 5`, `\angle ABC = 5` and `(x, y) = (1, 2)`.
NAME = re.compile(
    r"((?:\\(?:angle|triangle) ?[A-Z]{1,3}|\\[A-Za-z]+|[A-Za-z][A-Za-z']{0,11})"
    r"(?:_\{?[0-9A-Za-z]+\}?)?(?:\([A-Za-z, ]{1,9}\))?|\([A-Za-z](?:, ?[A-Za-z])*\)) ?= ?(.+)"
)

# Keys are tags of Unicode's decomposition. NFKC alone turns 5\u00b2 into 52 and 3\u00bd into 31/2.
_SCRIPTS = {"<super>": "^{%s}", "<sub>": "_{%s}"}
_APART = ("<fraction>", "<circle>")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u2044\u2215\u00f7", "/"),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None),
        **dict.fromkeys("\u00d7\u2217\u22c5\u00b7", r"\cdot "),
        "\u221a": r"\sqrt ",
        "\u221b": r"\sqrt[3] ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u00b1": r"\pm ",
        "\u2208": r"\in ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2205": r"\emptyset ",
        "\u211d": r"\mathbb{R}",
        "\u22ef": r"\ldots ",
        "\u03b8": r"\theta ",
        "\u03b1": r"\alpha ",
        "\u03b2": r"\beta ",
    }
)
_SPELLINGS = {
    r"\leq": r"\le",
    r"\leqslant": r"\le",
    r"\geq": r"\ge",
    r"\geqslant": r"\ge",
    r"\neq": r"\ne",
    r"\lt": "<",
    r"\gt": ">",
    r"\times": r"\cdot",
    r"\ast": r"\cdot",
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
    r"\varnothing": r"\emptyset",
    r"\approx": "\u2248",
    r"\bigcup": r"\cup",
    r"\degree": r"^\circ",
    r"\lbrack": "[",
    r"\rbrack": "]",
    r"\lvert": "|",
    r"\rvert": "|",
    r"\vert": "|",
    r"\infin": r"\infty",
    r"\mleft": "",
    r"\mright": "",
    r"\left": "",
    r"\right": "",
    r"\displaystyle": "",
    r"\textstyle": "",
    r"\limits": "",
    r"\big": "",
    r"\Big": "",
    **dict.fromkeys((r"\dots", r"\cdots", r"\dotsc", r"\dotsb", r"\dotsm", r"\hdots"), ELLIPSIS),
    **dict.fromkeys((r"\bf", r"\rm", r"\it", r"\large", r"\Large", r"\small", r"\huge"), ""),
    r"\bigl": "",
    r"\bigr": "",
    r"\Bigl": "",
    r"\Bigr": "",
    r"\quad": " ",
    r"\qquad": " ",
}

_MATH_DELIMITER = re.compile(r"\\?\$|\\[()\[\]]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_DIGIT_GROUPS = re.compile(
    r"(?<![0-9.,])[0-9]{1,3}(?:(?:\\[,;: ]|~| )[0-9]{3})+(?![0-9/]| ?\\frac)|"
    r"(?<![0-9.,])[0-9]{1,3}(?:(?:,?\\[,;: ])[0-9]{3})+(?![0-9/])"
)
_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|emph|mbox|rm|mathrm|mathbf|mathit"
    r"|mathsf|boldsymbol|bm|underline)\s*\{([^{}]*)\}"
)
# `5\mathrm{m}` at the end of an item: after a number, roman type marks a unit.
_ROMAN_UNIT = re.compile(
    r"(?:(?<=[0-9])|(?<=[0-9][)}])|(?<=\\pi))((?:\s|~|\\[,;: ])*+)"
    r"\\(?:mathrm|rm)\s*\{\s*([ghlmsAJKLNVW])\s*\}"
    r"(?=(?:\s|\^\{?[23]\}?)*+(?:[\s.)\]]|\\right|\\\})*+(?:[,;]|$))"
)
# An ellipsis adds nothing after 12 digits, after a repeating decimal, or after an integer that
# stands alone.
_NEEDS_NO_ELLIPSIS = re.compile(
    r"((?<![0-9.])(?=[0-9]*\.[0-9])[0.]*+(?:[0-9]\.?){12,}+|\\(?:overline|bar|dot) ?\{?[0-9]+\}?"
    r"|^ *-?[0-9]++(?:,[0-9]{3})*+(?= *\\ldots *$)) *\\ldots(?![A-Za-z])"
)
_COLOR = re.compile(r"\\(?:text)?color\s*\{[a-zA-Z]*\}|\\(?:left|right)\s*\.")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]")
_FRACTION_TOP = re.compile(r"\\frac(?:\s*([0-9])|\s+([A-Za-z]))")
_FRACTION_BOTTOM = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z])")
_ROOT = re.compile(r"\\sqrt(\[[0-9a-z]\])?(?:\s*([0-9])|\s+([A-Za-z])|(?<=\])([A-Za-z]))")
_ESCAPED_TWICE = re.compile(r"(?<!\\)\\\\(?=(?:frac|sqrt|left|right|text|pi|cdot|infty|cup|pm)\b)")
_DOLLARS = re.compile(r"\\\$\s*([0-9][0-9.,]*)")
_MATH_FONT = re.compile(
    r"\\(?:mathbf|mathrm|mathit|mathsf|boldsymbol|bm|bold|underline)(?![A-Za-z])"
)
_ROWS = re.compile(r"\\begin\{(aligned|align\*?|cases|gathered|split)\}(.*?)\\end\{\1\}", re.DOTALL)
_BASE_WORDS = {
    word: str(n) for n, word in enumerate("two three four five six seven eight nine ten".split(), 2)
}
_BASE_WORD = re.compile(rf"_ ?\{{ ?{OPEN}({'|'.join(_BASE_WORDS)}){CLOSE} ?\}}")
_ONE_CHARACTER_SCRIPT = re.compile(r"([\^_])\s*\{\s*(.)\s*\}")
_REDUNDANT_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")


def squeeze(text: str) -> str:
    """Return a tidy text without the marks of words and without spaces that separate nothing."""
    words = text.replace(OPEN, " ").replace(CLOSE, " ").split()
    return _REDUNDANT_SPACE.sub("", " ".join(words))


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    """Return a text in one spelling, with single spaces between words."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _spell_scripts(text)).translate(_CHARACTERS)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    text = re.sub(r"\{ ?, ?\}|,\\! *", ",", text).replace(r"\!", "")
    text = re.sub(r"\.{3,}", r"\\ldots ", text)
    text = _DOLLARS.sub(rf"\1 {OPEN}dollars{CLOSE} ", _ESCAPED_TWICE.sub(r"\\", text))
    text = _MATH_DELIMITER.sub(" ", _DIGIT_GROUPS.sub(_digits, text))
    text = text.replace(">=", r"\ge ").replace("<=", r"\le ").replace(" != ", r" \ne ")
    if "\\" in text:
        text = _ROMAN_UNIT.sub(r"\1\\text{\2}", _COLOR.sub("", text))
        text = _MATH_FONT.sub("", _FONT.sub(_words, text))
        text = _BASE_WORD.sub(lambda word: f"_{_BASE_WORDS[word[1]]}", _ROWS.sub(_rows, text))
        text = _COMMAND.sub(lambda command: _SPELLINGS.get(command[0], command[0]), text)
        text = _SPACING.sub(" ", text)
        text = _FRACTION_TOP.sub(r"\\frac{\1\2}", text)
        text = _FRACTION_BOTTOM.sub(r"\1{\2}", text)
        text = _ROOT.sub(r"\\sqrt\1{\2\3\4}", text)
        text = _NEEDS_NO_ELLIPSIS.sub(r"\1", text)
    text = text.replace("~", " ")
    text = _ONE_CHARACTER_SCRIPT.sub(r"\1\2", text)
    return " ".join(text.split()).rstrip(" .,;")


def _rows(environment: re.Match[str]) -> str:
    """Return the rows of `aligned` or `cases` as a list. A row `= ...` continues the one before."""
    rows = ", ".join(environment[2].replace("&", " ").split(r"\\"))
    return re.sub(r",\s*=", " =", rows)


def _words(font: re.Match[str]) -> str:
    r"""Return the content of \text{...}: a separator, a letter, or words in marks."""
    content = font[1].strip()
    if content.strip(", ") in ("and", "or") or not any(char.isalpha() for char in content):
        return f" {content} "
    is_variable = len(content) == 1 and not font[0].startswith((r"\text", r"\mbox"))
    return content if is_variable else f" {OPEN}{content}{CLOSE} "


def _spell_scripts(text: str) -> str:
    """Return a text with superscripts and subscripts in LaTeX and spaces around fractions."""
    parts = []
    for tag, run in groupby(text, key=lambda char: unicodedata.decomposition(char).split(" ")[0]):
        space = " " if tag in _APART else ""
        parts.append(_SCRIPTS.get(tag, f"{space}%s{space}") % space.join(run))
    return "".join(parts)


def _digits(groups: re.Match[str]) -> str:
    return re.sub(r"[^0-9]", "", groups[0])
