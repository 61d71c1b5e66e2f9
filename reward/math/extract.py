r"""Find the answer that a response states, in time linear in the response's length.

An answer has one of four forms. The data source says which forms to look for, and in which order:

- "answer_line": the text after the last `Answer:` on its line. If only markup follows there, the
  next line with more text.
- "boxed": the content of the last complete `\boxed{...}` or `\fbox{...}`.
- "hash_mark": the text after the last `####` that begins a line, as GSM8K's solutions end.
- "sentence": the text after the last `answer is`, up to the end of the sentence.

A last number in bold, `**42**`, is no form: bold is also emphasis.

Places that state nothing are skipped: empty ones, ones that are cut off, and echoes of the prompt
such as `Answer: $Answer`. Several answers on one line, or in boxes with only a separator between
them, form one list. A list equals only a ground truth that is the same list, so guessing does not
help.
"""

import re
import string
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from reward.math.equality import MAX_ITEMS, same
from reward.math.notation import MAX_CHARS, squeeze, tidy

Form = Literal["answer_line", "boxed", "hash_mark", "sentence"]
Thinking = Literal["after", "require", "ignore"]

_BRACE = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\[{}]|([{}])")
_MARKER = re.compile(r"answer[ \t*_]*[:\uff1a]", re.IGNORECASE)
_IS = re.compile(r"\banswer (?:[^.:\n]{1,60}? )??is\b[ \t*_]*[:\uff1a]?", re.IGNORECASE)
_HASH_MARK = re.compile(r"####(?!#)[ \t]*(.*)")
_END_OF_SENTENCE = re.compile(r"\.(?=\s|\*|$)|\b(?:because|since)\b|\n")
_DELIMITED = re.compile(
    r"[\s*_]*(?:\$\$(.+?)\$\$|\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\])", re.DOTALL
)
_END_OF_TURN = re.compile(r"<[|\uff5c][^<>]{1,40}[|\uff5c]>|</s>|<end_of_turn>|<eos>")
_MATH_DELIMITER = re.compile(r"(?<!\\)\$|\\[()\[\]]")
_SAYS = re.compile(r"\\text\s*\{[^{}]*\bis:?\s*\}")
_PLACEHOLDER = re.compile(
    r"[\W_]*(?:(?:the|your|my|final|correct)[\W_]+){0,3}answer\b", re.IGNORECASE
)
_CUT_OFF = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARKUP = string.whitespace + '*_`"'

# This may stand between the boxes of one list, as in `x = \boxed{1}` and `y = \boxed{2}`.
_LINK = re.compile(
    r"(?:\s|[,;$]|\\[,;() ]|\\q?quad|\\(?:text|mbox)\s*\{\s*(?:and|or),?\s*\}|\b(?:and|or)\b"
    r"|[A-Za-z](?:_\{?\w\}?)?\s*=)+"
)
_SEPARATOR = re.compile(r"[,;]|and|or")
_NOTHING_BETWEEN = re.compile(r"(?:[\s.,;~$]|\\[,;:!() ]|\\q?quad)*")
_LONGEST_LINK = 70
LONGEST_SENTENCE = 400


class Stated(NamedTuple):
    """Hold an answer and the form in which it was found."""

    form: Form
    answer: str


class Box(NamedTuple):
    r"""Hold the positions of a complete `\boxed{...}`: command, content and closing brace."""

    start: int
    inner: int
    end: int


def extract(response: str, forms: Sequence[Form], thinking: Thinking = "after") -> str | None:
    """Return the answer that a response states, or None if it states none.

    Args:
        response: the decoded response.
        forms: the forms to look for. The first form that finds an answer decides.
        thinking: with "after", only the text after the last `</think>` counts, and nothing counts
            if a `<think>` is left open. "require" is the same, but a response without `</think>`
            states nothing (Polaris as published). With "ignore", the tags are ordinary text.
    """
    found = stated(response, forms, thinking)
    return found and found.answer


def stated(response: str, forms: Sequence[Form], thinking: Thinking = "after") -> Stated | None:
    """Return the answer of a response with its form, or None. The arguments are `extract`'s."""
    said = _said(response, thinking)
    return next((Stated(form, found) for form in forms if (found := _FORMS[form](said))), None)


def _said(response: str, thinking: Thinking) -> str:
    if thinking == "ignore":
        return response
    _, closed, said = response.rpartition("</think>")
    return "" if "<think>" in said or (thinking == "require" and not closed) else said


def _answer_line(response: str) -> str:
    """Return the answer of the last `Answer:` that states something, or ""."""
    end = len(response)
    for marker in _backwards(_MARKER, "answer", response):
        if marker.end() > end:  # its line was read already
            continue
        start = response.rfind("\n", 0, marker.start()) + 1
        stop = response.find("\n", marker.end(), end)
        stop = end if stop < 0 else stop
        _, *tails = _MARKER.split(response[start:stop])
        if pieces := [piece for piece in map(_stated, tails) if piece]:
            return _agreed(pieces)
        # The answer may follow on the next lines, but only after a bare marker: an echo of the
        # prompt's `after "Answer:".` announces nothing.
        if not _MATH_DELIMITER.sub("", tails[-1]).strip(" \t\r*_"):
            for line in response[stop:end].splitlines():
                if piece := _stated(line):
                    return piece
        end = start
    return ""


def _boxed(response: str) -> str:
    """Return the last complete box that states something, with the boxes joined to it, or ""."""
    pieces: list[str] = []
    begin = len(response)
    for box in reversed(_outermost(_boxes(response))):
        if pieces and not _joined(response[box.end + 1 : begin]):
            break
        if piece := clean(response[box.inner : box.end]):
            pieces.append(piece)
            begin = box.start
    return _agreed(pieces[::-1])


def _hash_mark(response: str) -> str:
    """Return the answer of the last `####` that begins a line and states something, or ""."""
    end = len(response)
    while (end := response.rfind("####", 0, end)) >= 0:
        # Only a mark that begins a line reads on, so a line of many marks is read once.
        if end and response[end - 1] != "\n":
            continue
        marker = _HASH_MARK.match(response, end)
        if marker and (piece := clean(marker[1][:LONGEST_SENTENCE])):
            return piece
    return ""


def _sentence(response: str) -> str:
    """Return the answer of the last `answer is` that states something, or ""."""
    for marker in _backwards(_IS, "answer", response):
        tail = response[marker.end() : marker.end() + LONGEST_SENTENCE]
        if piece := clean(_to_end_of_sentence(tail)):
            return piece
    return ""


_FORMS = {
    "answer_line": _answer_line,
    "boxed": _boxed,
    "hash_mark": _hash_mark,
    "sentence": _sentence,
}


def _backwards(pattern: re.Pattern[str], word: str, text: str) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern that begins with `word`, the last one first."""
    lowered = text.lower()
    if len(lowered) != len(text):  # some capitals grow in lower case and would shift positions
        lowered = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    at = len(text)
    while (at := lowered.rfind(word, 0, at)) >= 0:
        if match := pattern.match(text, at):
            yield match


def _stated(tail: str) -> str:
    """Return the answer in the text after a marker on its line."""
    if said := _IS.search(tail):
        return clean(_to_end_of_sentence(tail[said.end() :]))
    return clean(tail)


def _to_end_of_sentence(text: str) -> str:
    if formula := _DELIMITED.match(text):
        return next(content for content in formula.groups() if content)
    said = _END_OF_SENTENCE.split(text.lstrip(_MARKUP), maxsplit=1)[0]
    # The dots belong to the answer in `3.14...` and `1, 2, ...`, but not in `34...`.
    goes_on = said.endswith("..") and ("," in said or "." in said.rstrip("."))
    return f"{said}." if goes_on else said


def _agreed(pieces: list[str]) -> str:
    r"""Return the answer that all pieces give, or the list of them if they differ.

    `15\frac{39}{40}` and `\frac{639}{40}` give one answer.
    """
    if len(pieces) < 2:
        return "".join(pieces)
    distinct = {squeeze(tidy(piece[:MAX_CHARS])): piece for piece in pieces}
    # A longer list equals no ground truth, so its items need no comparison.
    if len(distinct) > MAX_ITEMS or not all(
        _are_equal(piece, pieces[-1]) for piece in distinct.values()
    ):
        return ", ".join(pieces)
    return pieces[-1]


def _are_equal(one: str, other: str) -> bool:
    """Return whether two answers are the same at once, without symbolic mathematics."""
    try:
        return same(one, other) is True
    except (ArithmeticError, RecursionError, ValueError):
        return False


def _joined(between: str) -> bool:
    """Return whether only a separator stands between two boxes."""
    if len(between) > _LONGEST_LINK or not _SEPARATOR.search(between):
        return False
    return _LINK.fullmatch(between) is not None


def _boxes(text: str) -> list[Box]:
    """Return all complete boxes, nested ones before the box that holds them."""
    first = min((at for name in (r"\boxed", r"\fbox") if (at := text.find(name)) >= 0), default=-1)
    if first < 0:
        return []
    boxes = []
    opened: list[tuple[int, int] | None] = []
    for token in _BRACE.finditer(text, first):
        if token[1]:
            opened.append(token.span())
        elif token[2] == "{":
            opened.append(None)
        elif token[2] == "}" and opened and (command := opened.pop()):
            boxes.append(Box(*command, token.start()))
    return boxes


def _outermost(boxes: list[Box]) -> list[Box]:
    """Return the boxes that no other box holds, in the order of the text."""
    kept: list[Box] = []
    begin = None
    for box in reversed(boxes):
        if begin is None or box.end < begin:
            kept.append(box)
            begin = box.start
    return kept[::-1]


def _unwrap(text: str) -> str:
    """Replace every complete box by its content. Neighbouring boxes become a list."""
    boxes = _boxes(text)
    if not boxes:
        return text
    cuts = sorted([box[:2] for box in boxes] + [(box.end, box.end + 1) for box in boxes])
    ends = [0, *(end for _, end in cuts)]
    starts = [*(start for start, _ in cuts), len(text)]
    return "".join(_between(text, *cut) for cut in zip(ends, starts, strict=True))


def _between(text: str, begin: int, end: int) -> str:
    """Return the text between two cuts, or a separator between two neighbouring boxes."""
    said = text[begin:end]
    is_behind_a_box = text[begin - 1 : begin] == "}"
    if is_behind_a_box and text[end : end + 1] == "\\" and _NOTHING_BETWEEN.fullmatch(said):
        return ", "
    return f" {said}" if is_behind_a_box and said.startswith("...") else said


def clean(text: str) -> str:
    """Return a piece of the response without markup, or "" if it states no answer."""
    text = _END_OF_TURN.split(text, maxsplit=1)[0]
    text = _SAYS.sub("", _MATH_DELIMITER.sub(" ", _unwrap(text)))
    text = text.lstrip(_MARKUP)
    short = text.rstrip(_MARKUP + ".,;\u3002")
    end = len(short) + short.endswith("\\")  # keep `\\;` complete
    dots = text.rfind("...", end)
    # Dots outside the formula, as in `$3.14$...`, do not belong to the answer.
    if short and dots >= 0 and (dots == end or text[end:dots].strip(_MARKUP)):
        end = dots + 3
    text = text[:end]
    return "" if _PLACEHOLDER.match(text) or _CUT_OFF.search(text) else text
