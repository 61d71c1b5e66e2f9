"""Read problems of LiveCodeBench, and the tests that a program must pass.

Source: livecodebench/code_generation_lite, arXiv:2403.07974.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

from scripts.data.layouts import Layout, Problem, prompt_text, said
from scripts.data.pickled import unpack
from scripts.data.reading import Fields

TEST_COLUMNS = ("public_test_cases", "private_test_cases")


def read(fields: Fields) -> Problem:
    """Return a row's problem with its starter code; its tests stay packed.

    Raises:
        ValueError: a field cannot be read.
    """
    content, starter = prompt_text(fields["question_content"]), said(fields.get("starter_code"))
    code = f"\n\n```python\n{starter}\n```" if starter else ""
    packed = json.dumps([fields.get(column) for column in (*TEST_COLUMNS, "metadata")], default=str)
    info = {
        "question_id": said(fields.get("question_id")),
        "platform": said(fields.get("platform")),
        "difficulty": said(fields.get("difficulty")),
        "contest_date": contest_date(fields.get("contest_date")),
    }
    return Problem(
        f"{content.strip()}{code}", f"tests {hashlib.sha256(packed.encode()).hexdigest()}", info
    )


LAYOUT = Layout(("question_content", *TEST_COLUMNS), read)


def contest_date(value: Any) -> str | None:
    """Return the day of a contest as YYYY-MM-DD.

    Raises:
        ValueError: it is no date.
    """
    text = said(value)
    try:
        return text and datetime.fromisoformat(text).date().isoformat()
    except ValueError:
        raise ValueError(f"contest_date is {text!r}, expected one such as 2024-08-17") from None


def read_tests(fields: Fields) -> str:
    """Return the tests of a row, public ones first, as the JSON that the grader reads.

    Inputs and outputs stay as published: the text on stdin and stdout or, where `metadata` names a
    function, JSON, with one argument a line.

    Raises:
        ValueError: they cannot be read, or their kind is not that of the problem.
    """
    tests = [test for column in TEST_COLUMNS for test in _cases(fields[column], column)]
    metadata = _json(fields.get("metadata") or "{}", "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    kinds = {test.get("testtype") for test in tests}
    if kinds - {"functional" if name else "stdin"}:
        raise ValueError(f"tests are of kind {sorted(map(str, kinds))}, but func_name is {name!r}")
    truth = {"inputs": [t["input"] for t in tests], "outputs": [t["output"] for t in tests]}
    return json.dumps(truth | ({"fn_name": name} if name else {}), ensure_ascii=False)


def _cases(packed: Any, column: str) -> list[dict[str, Any]]:
    """Return the test cases of a column: JSON, or text that `unpack` turns into JSON."""
    if isinstance(packed, str) and not packed.lstrip().startswith("["):
        packed = unpack(packed)
    tests = _json(packed, column) if isinstance(packed, str) else packed
    if not isinstance(tests, list) or not all(
        isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests
    ):
        raise ValueError(f"{column} is {tests!r:.80}, expected a list of tests")
    return tests


def _json(text: Any, column: str) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{column} is no JSON: {error}") from None
