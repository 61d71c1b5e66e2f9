"""Sum up a task's graded samples, for validation and evaluation alike."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recipe.tasks.at_k import maj_at_k, mean_at_k, pass_at_k, standard_error
from reward.grader import Grader, Verdict
from reward.score import columns


class Graded(NamedTuple):
    """The part of a graded sample that scoring needs."""

    correct: bool
    answer: str
    """Normalised; empty if the sample states none, or is code."""


def graded(verdict: Verdict, is_code: bool) -> Graded:
    """Return the part of a verdict that scoring needs."""
    found = columns(verdict)
    return Graded(found["acc"] > 0, "" if is_code else found["pred"])


def scores(samples_P: Sequence[Sequence[Graded]], grader: Grader) -> dict[str, float]:
    """Return mean@n of a task with its standard error, and pass@k and maj@k for k = 2, 4, ..., n.

    The standard error is over problems, whose samples hang together. maj@k votes by equivalence of
    answers, not by their spelling; it is left out where no sample has an answer, as in code.

    Args:
        samples_P: the graded samples of each problem, equally many.
        grader: decides which answers are equivalent.

    Raises:
        ValueError: problems differ in their number of samples, or there are none.
    """
    numbers = {len(samples) for samples in samples_P}
    if len(numbers) != 1 or 0 in numbers:
        raise ValueError(f"problems must have equally many samples, not {sorted(numbers)}")
    [n] = numbers
    correct_PK = np.array([[one.correct for one in samples] for samples in samples_P], float)
    found = {f"mean@{n}": mean_at_k(correct_PK)}
    found["standard_error"] = standard_error(correct_PK.mean(1))
    counts = correct_PK.sum(1).astype(int)
    for k in ks(n):
        found[f"pass@{k}"] = float(pass_at_k(counts, n, k).mean())
    if any(one.answer for samples in samples_P for one in samples):
        classes_P = answer_classes(samples_P, grader)
        for k in ks(n):
            votes = [maj_at_k(classes, CORRECT, k) for classes in classes_P]
            found[f"maj@{k}"] = float(np.mean(votes))
    return found


def ks(n: int) -> list[int]:
    """Return 2, 4, 8, ... and n itself; nothing for 1."""
    return sorted({2**i for i in range(1, n.bit_length()) if 2**i <= n} | {n}) if n > 1 else []


# The class of the right answers; the others are numbered from 1.
CORRECT = 0


def answer_classes(samples_P: Sequence[Sequence[Graded]], grader: Grader) -> list[list[int | None]]:
    """Return the class of equivalent answers of each sample; None for a sample without answer.

    Right answers are one class. A wrong one joins the first wrong answer before it that the grader
    takes for the same; one that it cannot compare is a class of its own.
    """
    incorrect_P = [
        list(dict.fromkeys(one.answer for one in samples if one.answer and not one.correct))
        for samples in samples_P
    ]
    pairs = [
        (problem, i, j)
        for problem, answers in enumerate(incorrect_P)
        for j in range(len(answers))
        for i in range(j)
    ]
    decided = grader.equivalent((incorrect_P[p][j], incorrect_P[p][i]) for p, i, j in pairs)
    same: Mapping[int, set[tuple[int, int]]] = defaultdict(set)
    for (problem, i, j), is_same in zip(pairs, decided, strict=True):
        if is_same:
            same[problem].add((i, j))
    return [
        classes(samples, answers, same[problem])
        for problem, (samples, answers) in enumerate(zip(samples_P, incorrect_P, strict=True))
    ]


def classes(
    samples: Iterable[Graded], answers: Sequence[str], same: set[tuple[int, int]]
) -> list[int | None]:
    """Return the classes of one problem's samples, from its incorrect answers and equal pairs."""
    first: list[int] = []
    number = {}
    for j, answer in enumerate(answers):
        joins = next((i for i in first if (i, j) in same), j)
        first += [j] if joins == j else []
        number[answer] = joins + 1
    return [CORRECT if one.correct else number.get(one.answer) for one in samples]
