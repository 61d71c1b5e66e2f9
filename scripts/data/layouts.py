"""Read problem, answer and further facts from the layouts of published mathematics sets.

A layout takes a row apart by its columns. Each set has several, since the same problems were
published many times; `accepted` tells them to a reader.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

from reward.math.extract import extract
from reward.math.notation import tidy
from reward.math.structure import take_apart
from scripts.data.reading import Fields

# A Chinese character: CJK ideographs with their extensions, and the compatibility forms.
CHINESE = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"


class OutOfSet(ValueError):
    """Signal a readable row that does not belong to the set, such as one with a picture."""


@dataclass(frozen=True)
class Problem:
    """Hold what a row asks.

    Attributes:
        given: the problem as the row has it, perhaps with a template around it.
        answer: what the copies of a problem must agree on: the ground truth, or of code a hash of
            its tests.
        info: what else is known; keys of `scripts.data.rows.INFO`.
    """

    given: str
    answer: str
    info: dict[str, Any] = field(default_factory=dict)


class Layout(NamedTuple):
    """Hold the columns a row must have, and its reader, which may raise ValueError."""

    columns: tuple[str, ...]
    read: Callable[[Fields], Problem]


def plain(problem: str, answer: str, **info: str) -> Layout:
    """Read problem and answer from their own columns; `info` names further columns to keep."""

    def read(fields: Fields) -> Problem:
        kept = {key: said(fields.get(column)) for key, column in info.items()}
        return Problem(prompt_text(fields[problem]), answer_text(fields[answer]), kept)

    return Layout((problem, answer), read)


def in_verl_schema(fields: Fields) -> Problem:
    """Read a row with a prompt and a reward model, such as DAPO-Math-17k as published."""
    reward, extra = fields["reward_model"], fields.get("extra_info")
    if not isinstance(reward, dict):
        raise ValueError(f"reward_model is {reward!r:.80}, expected an object with ground_truth")
    extra = extra if isinstance(extra, dict) else {}
    number = extra.get("index", extra.get("id"))
    return Problem(
        prompt_text(fields["prompt"]),
        answer_text(reward.get("ground_truth")),
        {"question_id": said(number)},
    )


VERL = Layout(("prompt", "reward_model"), in_verl_schema)


def with_pass_rate(layout: Layout) -> Layout:
    """Read the same, with the share of correct responses that a difficulty like `7/8` states."""

    def read(fields: Fields) -> Problem:
        problem = layout.read(fields)
        difficulty = problem.info.get("difficulty")
        if difficulty is None:
            return problem
        try:
            rate = float(Fraction(difficulty))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"difficulty is {difficulty!r}, expected one such as 7/8") from None
        return replace(problem, info={**problem.info, "pass_rate": rate})

    return layout._replace(read=read)


def in_english(layout: Layout) -> Layout:
    """Read the same, without rows whose column `language` names another language."""

    def read(fields: Fields) -> Problem:
        language = said(fields.get("language")) or "English"
        if language.casefold() not in ("english", "en"):
            raise OutOfSet(f"language is {language}")
        return layout.read(fields)

    return layout._replace(read=read)


def boxed_in(problem: str, solution: str, **info: str) -> Layout:
    r"""Read the answer from the last `\boxed{}` of a worked solution."""
    row = plain(problem, "answer", **info)

    def read(fields: Fields) -> Problem:
        answer = extract(said(fields[solution]) or "", ("boxed",), "ignore")
        if answer is None:
            raise ValueError(rf"{solution} holds no \boxed{{}} with an answer")
        return row.read({**fields, "answer": answer})

    return Layout((problem, solution), read)


def behind_mark(problem: str, answer: str, **info: str) -> Layout:
    """Read the answer behind GSM8K's mark `####`, or all of it if there is no mark."""
    row = plain(problem, answer, **info)

    def read(fields: Fields) -> Problem:
        found = answer_text(fields[answer]).rpartition("####")[2].strip()
        return row.read({**fields, answer: found})

    return row._replace(read=read)


def in_two_parts(body: str, question: str, answer: str, **info: str) -> Layout:
    """Read a problem whose facts and question are columns of their own."""
    row = plain(question, answer, **info)

    def read(fields: Fields) -> Problem:
        facts = prompt_text(fields[body]).strip()
        end = "" if facts.endswith((".", "?", "!", ",")) else "."
        return row.read({**fields, question: f"{facts}{end} {prompt_text(fields[question])}"})

    return Layout((body, question, answer), read)


def olympiad(fields: Fields) -> Problem:
    """Read a row of OlympiadBench: text-only mathematics with a final answer.

    Several answers become one list. Where the row says that it has several, `120,240` is two of
    them and no number with digits grouped.
    """
    pictures = [key for key, value in fields.items() if key.startswith("image") and value]
    modality = said(fields.get("modality")) or "Text-only"
    subject = said(fields.get("subject")) or "Math"
    if pictures or not modality.casefold().startswith("text"):
        raise OutOfSet(f"modality is {modality}, pictures are {', '.join(pictures) or 'none'}")
    if not subject.casefold().startswith("math"):
        raise OutOfSet(f"subject is {subject}")
    answer = answer_text(fields["final_answer"])
    if fields.get("is_multiple_answer") is True and len(take_apart(tidy(answer)).items) == 1:
        answer = answer.replace(",", ", ")
    context = said(fields.get("context"))
    question = prompt_text(fields["question"])
    is_multiple = fields.get("is_multiple_answer")
    return Problem(
        f"{context}\n\n{question}" if context else question,
        answer,
        {
            "question_id": said(fields.get("id")),
            "subject": said(fields.get("subfield")),
            "difficulty": said(fields.get("difficulty")),
            "unit": said(fields.get("unit")),
            "answer_type": said(fields.get("answer_type")),
            "is_multiple_answer": is_multiple if isinstance(is_multiple, bool) else None,
            "tolerance": said(fields.get("error")),
        },
    )


OLYMPIAD = Layout(("question", "final_answer"), olympiad)


def prompt_text(prompt: Any) -> str:
    """Return the text of a prompt: itself, or the content of its only message.

    Raises:
        ValueError: it is neither, or empty.
    """
    text = prompt
    if isinstance(prompt, list):
        roles = [said(message.get("role")) for message in prompt if isinstance(message, dict)]
        if roles != ["user"] or len(prompt) != 1:
            raise ValueError(f"the prompt has messages of {roles}, expected one of user")
        text = prompt[0].get("content")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the problem is {text!r:.80}, expected a text that is not empty")
    return text


def answer_text(answer: Any) -> str:
    """Return an answer as text: numbers as written, a list of answers joined by commas.

    Raises:
        ValueError: it is neither text nor finite number nor a list of these, or there is none.
    """
    if isinstance(answer, list) and answer:
        return ", ".join(map(answer_text, answer))
    if isinstance(answer, float) and not math.isfinite(answer):
        raise ValueError(f"the answer is {answer}, expected a text or a finite number")
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    if not isinstance(answer, str):
        raise ValueError(f"the answer is {answer!r:.80}, expected a text or a number")
    return answer.strip()


def said(value: Any) -> str | None:
    """Return a value as text, or None if it is empty."""
    text = "" if value is None else str(value).strip()
    return text or None


def is_chinese(text: str) -> bool:
    """Return whether a text holds a Chinese character."""
    return _CHINESE.search(text) is not None


_CHINESE = re.compile(CHINESE)
