"""Find the program in a response and decide whether it passes its tests, as LiveCodeBench does.

Each test runs in its own sandbox. The sandbox holds the program and the input of that test, never
an expected output: outputs are compared here. So a program can pass only by producing the expected
output, whatever it does to its interpreter. No test can learn from another or prepare one. A secret
mark on the result would add nothing: the program shares its memory with the code that would make
the mark, so it could read the mark.

Three rules are stricter than LiveCodeBench's harness. A return code other than 0 is a crash, also
after the correct output. Memory is limited. No program may start another one.
"""

import builtins
import functools
import importlib
import io
import json
import re
import time
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from pathlib import Path
from typing import Literal, NamedTuple

from reward.code.sandbox import LIMITS, Ended, Level, Limits, check, require, run

Outcome = Literal["correct", "incorrect", "no_answer", "timeout"]

RESPONSE_SECONDS = 120.0

_FENCE = re.compile(r"([ \t]*)(`{3,})([^`]*)")
_LANGUAGES = {"", "python", "python3", "py"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")

# For each module M, in this order, LiveCodeBench puts `from M import *` and `import M` before every
# program. Then it adds `from builtins import *`.
_PRELUDE = (
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "json",
    "typing",
)
# Other names of `from sys import *` differ between processes.
_SYS_NAMES = ("argv", "maxsize", "setrecursionlimit", "stderr", "stdin", "stdout")
_RECURSION_LIMIT = 50_000

_CALL = Path(__file__).with_name("call_solution.py")


class CodeResult(NamedTuple):
    """Hold the verdict on a program.

    Attributes:
        outcome: "correct" if all tests passed; "timeout" or "incorrect" for the first test that
            failed; "no_answer" if the response holds no program.
        passed: the number of tests passed before the first failure.
        total: the number of tests.
        detail: which test failed and why, in words.
        extracted: the program; None if there is none.
    """

    outcome: Outcome
    passed: int
    total: int
    detail: str
    extracted: str | None


class Case(NamedTuple):
    """Hold one test.

    Attributes:
        given: the list of arguments, or the text on stdin.
        expected: the value to return, or the text to print.
    """

    given: object
    expected: object


def extract_code(response: str) -> str | None:
    """Return the last complete fenced block in Python or in no named language, or None.

    Only the text after the last `</think>` counts. If a `<think>` is left open there, the result is
    None.
    """
    text = response.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    found = opening = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        fence = _FENCE.fullmatch(line)
        if opening is None:
            opening, lines = fence, []
        elif fence and len(fence[2]) >= len(opening[2]) and fence[3].strip()[:1] in ("", "<"):
            # A chat's end token, which begins with `<`, may follow the fence.
            language = "".join(opening[3].split()[:1]).lower()
            if language in _LANGUAGES:
                found = "".join(lines)
            opening = None
        else:
            lines.append(line.removeprefix(opening[1]))
    return found


def grade_code(
    response: str,
    tests: Mapping[str, object],
    limits: Limits = LIMITS,
    minimum: Level = Level.LANDLOCK,
    response_seconds: float = RESPONSE_SECONDS,
) -> CodeResult:
    """Run the program of a response on its tests, up to the first failure.

    Args:
        response: the response, decoded.
        tests: `inputs` and `outputs`, lists of the same length, and perhaps `fn_name`. Without
            `fn_name`, an input is the text on stdin and an output the expected text on stdout. With
            it, the program must define a function of that name, or a class `Solution` with such a
            method. An input is then a list of arguments and an output the value to return. Both may
            also be JSON texts, with one argument per line.
        limits: what the program may use in one test.
        minimum: the weakest sandbox level that is accepted.
        response_seconds: the wall time of all tests together.

    Raises:
        ValueError: the tests are malformed. A score of 0 would hide this fault.
        SandboxError: the machinery failed, or offers less than `minimum`.
    """
    name, cases = read_tests(tests)
    program = extract_code(response)
    if program is None:
        detail = "no complete fenced block of Python"
        return CodeResult("no_answer", 0, len(cases), detail, None)
    level = require(minimum)
    end = time.monotonic() + response_seconds
    for passed, case in enumerate(cases):
        left = end - time.monotonic()
        if left <= 0:
            failure = "timeout", f"all tests together took over {response_seconds} s of wall time"
        else:
            failure = _failure(program, name, case, level, limits, left)
        if failure:
            outcome, why = failure
            detail = f"test {passed + 1} of {len(cases)}: {why}"
            return CodeResult(outcome, passed, len(cases), detail, program)
    return CodeResult("correct", len(cases), len(cases), "all tests passed", program)


def read_tests(tests: Mapping[str, object]) -> tuple[str | None, list[Case]]:
    """Return the function's name, or None, and the tests.

    Raises:
        ValueError: the tests are malformed.
    """
    found = dict(tests) if isinstance(tests, Mapping) else {}
    name, inputs, outputs = (found.get(key) for key in ("fn_name", "inputs", "outputs"))
    if not (isinstance(inputs, list | tuple) and isinstance(outputs, list | tuple)):
        kinds = {key: type(value).__name__ for key, value in found.items()}
        problem = f"is a {type(tests).__name__} and holds {kinds}"
    elif not inputs or len(inputs) != len(outputs):
        problem = f"has {len(inputs)} inputs and {len(outputs)} outputs"
    elif not (name is None or (isinstance(name, str) and name.isidentifier())):
        problem = f"has fn_name {name!r}, which is not a name of a function"
    else:
        try:
            return name, [_read_test(name, *pair) for pair in zip(inputs, outputs, strict=True)]
        except ValueError as error:
            problem = f"has a test that cannot be read: {error}"
    raise ValueError(
        f"`tests` {problem}. It must be a mapping with `inputs` and `outputs`, lists of the same "
        f"length, at least 1, and perhaps `fn_name`. Repair or drop this row of the data."
    )


def _read_test(name: str | None, given: object, expected: object) -> Case:
    if name is None or isinstance(given, str):
        if not (isinstance(given, str) and isinstance(expected, str)):
            raise ValueError(f"input {given!r:.80} and output {expected!r:.80} must be strings")
        if name is None:
            return Case(given, expected)
        arguments = [json.loads(line) for line in given.split("\n") if line.strip()]
        return Case(arguments, json.loads(expected))
    if not isinstance(given, list | tuple):
        raise ValueError(f"input {given!r:.80} must be a list of arguments or a string of JSON")
    return Case(list(given), expected)


def _failure(
    program: str, name: str | None, case: Case, level: Level, limits: Limits, seconds: float
) -> tuple[Outcome, str] | None:
    """Run one test and return the outcome and the reason of a failure, or None if it passes."""
    setup = _prelude(program)
    allowed = limits._replace(wall_seconds=min(limits.wall_seconds, seconds))
    if name is None:
        ended = run(program, str(case.given).encode(), level=level, limits=allowed, setup=setup)
        is_correct = same_output
    else:
        job = {"setup": setup, "source": program, "name": name, "arguments": case.given}
        ended = run(_CALL.read_text(), json.dumps(job).encode(), level=level, limits=allowed)
        is_correct = same_result
    if found := _misfortune(ended, allowed):
        # A machine where no program runs any more must not look like an incorrect response.
        check(level, limits)
        return found
    if not is_correct(ended.stdout, case.expected):
        return "incorrect", f"incorrect output {ended.stdout[:80].decode(errors='replace')!r}"
    return None


def _misfortune(ended: Ended, limits: Limits) -> tuple[Outcome, str] | None:
    """Return the outcome and the reason if a program did not end regularly, else None."""
    last_line = ended.stderr.strip().rpartition("\n")[2][-300:]
    if ended.reason == "wall":
        return "timeout", f"timeout after {limits.wall_seconds:.1f} s of wall time"
    if ended.reason == "cpu":
        return "timeout", f"timeout after {limits.cpu_seconds} s of CPU time"
    if ended.reason == "tasks":
        return "incorrect", f"more than {limits.tasks} threads"
    if ended.reason == "files" or len(ended.stdout) >= limits.file_bytes:
        return "incorrect", f"output or files over the limit of {limits.file_bytes} bytes"
    if ended.code and last_line.startswith("MemoryError"):
        return "incorrect", f"out of memory: the limit is {limits.memory_bytes} bytes"
    if ended.code < 0:
        return "incorrect", f"killed by signal {-ended.code}, last line of stderr {last_line!r}"
    if ended.code:
        why = f"crash with return code {ended.code}, last line of stderr {last_line!r}"
        return "incorrect", why
    return None


def same_output(found: bytes, expected: object) -> bool:
    """Return whether two texts agree line by line, as stripped text or as decimal numbers."""
    # Do not spend memory on reading it: an equal output is never this much longer.
    if len(found) > 4096 + 16 * len(str(expected)):
        return False
    texts = found.decode(errors="replace"), str(expected)
    lines = zip_longest(*(io.StringIO(text.strip(), newline="\n") for text in texts))
    return all(None not in pair and _same_line(*map(str.strip, pair)) for pair in lines)


def _same_line(found: str, expected: str) -> bool:
    if found == expected:
        return True
    tokens = found.split(), expected.split()
    if len(tokens[0]) != len(tokens[1]):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(*tokens, strict=True))
    except InvalidOperation:
        return False


def same_result(found: bytes, expected: object) -> bool:
    """Return whether a call's result, as JSON, is the expected value. A tuple becomes a list."""
    # Do not spend memory on reading it: an equal value is never this much longer.
    if len(found) > 4096 + 16 * len(json.dumps(expected)):
        return False
    try:
        return json.loads(found) == expected
    except (ValueError, RecursionError):
        return False


def _prelude(program: str) -> str:
    """Return those of LiveCodeBench's imports whose names occur in the program."""
    named = set(_IDENTIFIER.findall(program))
    lines = [f"from {module} import {name}" for name, module in _exports().items() if name in named]
    lines += [f"import {module}" for module in _PRELUDE if module in named]
    return "\n".join([*lines, f"import sys; sys.setrecursionlimit({_RECURSION_LIMIT})"])


@functools.cache
def _exports() -> dict[str, str]:
    """Return the module of each name after a star import of all modules in order."""
    exports = {}
    for module in _PRELUDE:
        content = importlib.import_module(module)
        names = getattr(content, "__all__", None) or [n for n in vars(content) if n[0] != "_"]
        exports |= dict.fromkeys(names, module)
    exports |= dict.fromkeys(_SYS_NAMES, "sys")
    return {name: module for name, module in exports.items() if not hasattr(builtins, name)}
