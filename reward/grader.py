"""Grade responses, for training, validation and evaluation alike.

Most answers are decided at once, by exact arithmetic. Symbolic mathematics and programs may never
end, so they run in processes of their own.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from reward.code.code_answer import CodeResult, grade_code, read_tests
from reward.code.sandbox import Level, SandboxError
from reward.math.equality import same, within
from reward.math.extract import Stated, clean, extract, stated
from reward.math.pool import Pool
from reward.math.quantity import normalise
from reward.sources import RewardSettings, Scorer, Source

Outcome = Literal["correct", "incorrect", "no_answer", "parse_error", "timeout"]

# At most this many rows are graded ahead of the oldest row without a verdict.
ROWS_AHEAD = 4096
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """Hold a response to grade.

    Attributes:
        response: the response, decoded.
        ground_truth: the correct answer; for code, the tests as JSON.
        source: how the response is graded.
        extra: the row's other columns, for a scorer of your own; a published `tolerance` is read
            too.
    """

    response: str
    ground_truth: str
    source: Source | Scorer
    extra: Mapping[str, Any] = NOTHING


class Verdict(NamedTuple):
    """Hold the verdict on a response.

    Attributes:
        outcome: "correct" or "incorrect" if the answer was read and decided; "no_answer" if the
            response states none; "parse_error" if the answer cannot be read or exceeds a limit;
            "timeout" if the comparison or the program exceeded its time or its memory.
        score: the score on the scale of the data source.
        extracted: the answer as extracted; None if there is none.
        seconds: the wall time of grading.
        error: why an answer was not read, or which test a program failed.
        in_form: whether the answer has the form that the data source asks for; None for a scorer of
            your own, which asks for no form.
        extra: what a scorer of your own returned besides its score.
    """

    outcome: Outcome
    score: float
    extracted: str | None
    seconds: float
    error: str = ""
    in_form: bool | None = None
    extra: Mapping[str, Any] = NOTHING


class Grader:
    """Grade responses. Threads may share a grader.

    Raises:
        ValueError: a ground truth states nothing. A score of 0 would hide this fault.
        RewardError: the machinery failed twice, so a score would mean nothing.
    """

    def __init__(self, settings: RewardSettings) -> None:
        self.settings = settings
        self.pool = Pool(settings.workers, settings.deadline, settings.memory_mib << 20)
        self._programs = threading.BoundedSemaphore(settings.workers)

    def grade(self, row: Row) -> Verdict:
        """Return the verdict on one response; wait if a process has to decide it."""
        found = self._at_once(row)
        return found if isinstance(found, Verdict) else self._at_length(row, found)

    def grade_many(self, rows: Iterable[Row]) -> Iterator[Verdict]:
        """Yield the verdicts in the order of the rows, at most `ROWS_AHEAD` rows ahead."""
        begun: deque[Verdict | Future[Verdict]] = deque()
        with ThreadPoolExecutor(self.settings.workers) as executor:
            for row in rows:
                found = self._at_once(row)
                if not isinstance(found, Verdict):
                    found = executor.submit(self._at_length, row, found)
                begun.append(found)
                while begun and (len(begun) > ROWS_AHEAD or _is_done(begun[0])):
                    yield _wait(begun.popleft())
            yield from map(_wait, begun)

    def equivalent(self, pairs: Iterable[tuple[str, str]]) -> list[bool]:
        """Return for each pair whether its two answers are the same; False if one is unreadable."""
        with ThreadPoolExecutor(self.settings.workers) as executor:
            return list(executor.map(self._are_equivalent, pairs))

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()

    def _are_equivalent(self, pair: tuple[str, str]) -> bool:
        try:
            decided = same(*pair)
        except (ArithmeticError, RecursionError, ValueError):
            return False
        return bool(self.pool.ask(*pair).same) if decided is None else decided

    def _at_once(self, row: Row) -> Verdict | Stated | None:
        """Return the verdict if it takes no process.

        Otherwise return the answer to compare by symbolic mathematics, or None for a program or a
        scorer of your own.
        """
        if not isinstance(row.source, Source) or not row.source.forms:
            return None
        start = time.perf_counter()
        truth = read_truth(row.ground_truth)
        found = stated(row.response, row.source.forms, self.settings.thinking)
        if found is None:
            return self._verdict(row.source, "no_answer", None, start)
        tolerance = self._tolerance(row)
        try:
            decided = same(found.answer, truth)
            if decided is False and tolerance is not None:
                decided = within(found.answer, truth, tolerance)
        except (ArithmeticError, RecursionError, ValueError) as error:
            return self._verdict(row.source, "parse_error", found, start, f"answer: {error}")
        if decided is None:
            return found
        return self._verdict(row.source, "correct" if decided else "incorrect", found, start)

    def _tolerance(self, row: Row) -> Fraction | None:
        """Return how far a number may be from a row's ground truth, if the row says so."""
        given = row.extra.get("tolerance") if self.settings.apply_tolerance else None
        if given is None:
            return None
        try:
            return Fraction(str(given))
        except ValueError:
            raise ValueError(
                f"tolerance is {given!r}; it must be a number such as 1e-1. Repair the row, or "
                f"grade with apply_tolerance=false"
            ) from None

    def _at_length(self, row: Row, found: Stated | None) -> Verdict:
        """Return the verdict on a row that `_at_once` left open."""
        start = time.perf_counter()
        if not isinstance(row.source, Source):
            return _own_verdict(row.source(row.response, row.ground_truth, row.extra), start)
        if found is None:
            result = self._run_tests(row.response, parse_tests(row.ground_truth))
            score = row.source.score_of(result.outcome)
            return Verdict(
                result.outcome,
                score,
                result.extracted,
                time.perf_counter() - start,
                result.detail,
                in_form=result.extracted is not None,
            )
        reply = self.pool.ask(found.answer, read_truth(row.ground_truth))
        if reply.same is None:
            outcome = "timeout" if reply.over_limit else "parse_error"
        else:
            outcome = "correct" if reply.same else "incorrect"
        return self._verdict(row.source, outcome, found, start, reply.error)

    def _run_tests(self, response: str, tests: dict[str, Any]) -> CodeResult:
        """Return the result of a program; try once more if the machinery fails."""
        minimum = Level[self.settings.sandbox.upper()]
        with self._programs:
            try:
                return grade_code(response, tests, minimum=minimum)
            except SandboxError:
                return grade_code(response, tests, minimum=minimum)

    @staticmethod
    def _verdict(
        source: Source, outcome: Outcome, found: Stated | None, start: float, error: str = ""
    ) -> Verdict:
        in_form = found is not None and found.form == source.forms[0]
        seconds = time.perf_counter() - start
        answer = found and found.answer
        return Verdict(outcome, source.score_of(outcome), answer, seconds, error, in_form)


def _own_verdict(result: Any, start: float) -> Verdict:
    """Return the verdict of a user's scorer: correct if its score is positive."""
    extra = dict(result) if isinstance(result, dict) else {"score": result}
    score = float(extra.pop("score"))
    outcome = "correct" if score > 0 else "incorrect"
    return Verdict(outcome, score, None, time.perf_counter() - start, extra=extra)


def _is_done(item: Verdict | Future[Verdict]) -> bool:
    return isinstance(item, Verdict) or item.done()


def _wait(item: Verdict | Future[Verdict]) -> Verdict:
    return item if isinstance(item, Verdict) else item.result()


@lru_cache(maxsize=4096)
def read_truth(truth: str) -> str:
    """Return a ground truth without markup.

    Raises:
        ValueError: the ground truth is not a string, or it states nothing.
    """
    found = ""
    if isinstance(truth, str):
        found = extract(truth, ("boxed",), "ignore") or clean(truth)
    if not normalise(found):
        raise ValueError(
            f"ground truth is {truth!r}; it must be a string that states an answer, such as "
            f"'34' or '\\frac{{1}}{{2}}'. Repair or drop this row of the data."
        )
    return found


def parse_tests(truth: str) -> dict[str, Any]:
    """Return the tests of a programming problem from its ground truth, a JSON text.

    Raises:
        ValueError: the text is not JSON, or the tests are malformed.
    """
    try:
        tests = json.loads(truth)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"tests are no JSON ({error}): {truth!r:.80}. Repair or drop this row of the data."
        ) from None
    read_tests(tests)
    return tests
