import json
import os
import sys
from pathlib import Path

import pytest
from sandbox_stage import MISSING, adopting_orphans, child_pids, marked_files, stage

from reward.code import code_answer
from reward.code.code_answer import extract_code, grade_code, same_output, same_result
from reward.code.sandbox import Level, Limits, SandboxError

CASES_FILE = Path(__file__).parents[1] / "code_cases.jsonl"
CASES = [json.loads(line) for line in CASES_FILE.read_text(encoding="utf-8").splitlines()]
LIMITS = Limits(cpu_seconds=1, wall_seconds=20, memory_bytes=512 << 20, file_bytes=1 << 20)
TIMES_TWO = {"inputs": ["4\n"], "outputs": ["8\n"]}
DOUBLE = "```python\nprint(2 * int(input()))\n```"


def at_each_level(cases):
    for case in cases:
        for level in Level:
            marks = [pytest.mark.slow] if case.get("slow") else []
            if MISSING[level]:
                marks.append(pytest.mark.skip(reason=MISSING[level]))
            if sys.version_info[:2] > tuple(case.get("until_python", sys.version_info)):
                marks.append(pytest.mark.skip(reason="Python 3.12 bounds recursion through C"))
            if level == Level.RLIMITS and (weak := case.get("weak")):
                marks.append(pytest.mark.skip(reason=f"at this level {weak}"))
            yield pytest.param(case, level, id=f"{case['name']}-{level.name}", marks=marks)


def grade(case, names):
    text = json.dumps(case)
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    case = json.loads(text)
    limits = LIMITS._replace(wall_seconds=case.get("wall", LIMITS.wall_seconds))
    return grade_code(case["response"], case["tests"], limits)


@pytest.fixture
def at(monkeypatch):
    """Return a function that sets the level, even if the machine offers a stronger one."""
    return lambda level: monkeypatch.setattr(code_answer, "require", lambda minimum: level)


@pytest.mark.parametrize(("case", "level"), at_each_level(CASES))
def test_a_case_gets_its_outcome_and_leaves_nothing_behind(case, level, at, monkeypatch):
    at(level)
    with stage(monkeypatch) as names, adopting_orphans():
        children, descriptors = child_pids(), len(os.listdir("/proc/self/fd"))
        found = grade(case, names)
        # A slow machine may reach its time limit before its memory limit, or the reverse.
        either = {"incorrect", "timeout"} if case["category"] == "resources" else {case["expected"]}
        assert found.outcome in {case["expected"], *(either - {"correct"})}, found.detail
        assert found.total == len(case["tests"]["inputs"])
        assert (found.passed == found.total) == (found.outcome == "correct")
        assert child_pids() == children
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert marked_files(names) == []
        assert Path(names["SECRET"]).read_text() == "escaped"
        assert grade_code(DOUBLE, TIMES_TWO).outcome == "correct"


@pytest.mark.parametrize("case", [c for c in CASES if c.get("proof")], ids=lambda c: c["name"])
def test_an_attack_succeeds_without_isolation(case, at, monkeypatch):
    """Otherwise its failure at the other levels would prove nothing."""
    at(Level.RLIMITS)
    with stage(monkeypatch) as names:
        try:
            found = grade(case, names)
        finally:
            for path in marked_files(names):
                os.unlink(path)
        assert found.outcome == "correct", found.detail


def test_the_cases_are_many_and_cover_every_outcome():
    assert len(CASES) >= 150
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert {case["expected"] for case in CASES} == {"correct", "incorrect", "no_answer", "timeout"}
    assert all(case["source"].startswith("https://") for case in CASES)


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("print(9)", "test 1 of 1: incorrect output '9"),
        ("raise ValueError('why')", "crash with return code 1, last line of stderr 'ValueError: w"),
        ("x = [0] * 10**10", "out of memory"),
        ("while True: print('x' * 1000)", "over the limit of 1048576 bytes"),
        ("import os; os.abort()", "killed by signal 6"),
    ],
)
def test_the_detail_says_which_test_failed_and_why(program, detail, at):
    at(Level.RLIMITS)
    found = grade_code(f"```\n{program}\n```", TIMES_TWO, LIMITS)
    assert found.outcome == "incorrect"
    assert detail in found.detail


def test_all_tests_of_a_response_share_one_time_limit():
    program = "import time\nprint(2 * int(input()), flush=True)\ntime.sleep(0.3)"
    tests = {"inputs": ["4\n"] * 50, "outputs": ["8\n"] * 50}
    found = grade_code(f"```\n{program}\n```", tests, response_seconds=1.0)
    assert found.outcome == "timeout"
    assert found.passed < 4


def test_names_added_to_a_module_of_the_grader_do_not_reach_the_program(monkeypatch):
    monkeypatch.setattr(sys, "last_value", 1, raising=False)
    program = "last_value = 2\nprint(last_value * int(input()))"
    assert grade_code(f"```\n{program}\n```", TIMES_TWO).outcome == "correct"


def test_the_extracted_program_is_the_text_between_the_fences():
    assert extract_code("```py\na\n\n  b\n```") == "a\n\n  b\n"
    assert extract_code("````python\n```\n````") == "```\n"
    assert extract_code("```python\n```") == ""


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ({}, "holds"),
        ("[]", "is a str"),
        ({"inputs": ["1"]}, "holds"),
        ({"inputs": "1", "outputs": "1"}, "holds"),
        ({"inputs": [], "outputs": []}, "0 inputs"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs and 2 outputs"),
        ({"inputs": [1], "outputs": ["1"]}, "must be strings"),
        ({"inputs": ["1"], "outputs": [1]}, "must be strings"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "a b"}, "fn_name"),
        ({"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}, "Expecting value"),
        ({"inputs": [3], "outputs": ["1"], "fn_name": "f"}, "list of arguments"),
    ],
)
def test_malformed_tests_are_refused_even_without_a_program(tests, reason):
    with pytest.raises(ValueError, match=reason):
        grade_code("nothing", tests)


@pytest.mark.parametrize(
    "broken", [{"memory_bytes": 1 << 20}, {"cpu_seconds": 0}, {"wall_seconds": 0.001}]
)
def test_limits_too_tight_for_any_program_are_an_error_and_no_verdict(broken):
    program = "```\nheld = bytearray(16 << 20)\nprint(2 * int(input()))\n```"
    with pytest.raises(SandboxError):
        grade_code(program, TIMES_TWO, LIMITS._replace(**broken))


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1\n2", "1\n2\n\n", True),
        ("  1 \n 2", "1\n2", True),
        ("1.50 2", "1.5  2.0", True),
        ("1e2", "100", True),
        ("9007199254740993", "9007199254740992", False),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1 2 3", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("", "", True),
        ("", "1", False),
        ("1e999999999999", "1", False),
    ],
)
def test_outputs_agree_line_by_line_or_as_exact_decimals(found, expected, same):
    assert same_output(found.encode(), expected) is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("[1, [2]]", [1, [2]], True),
        ("1", 1.0, True),
        ("true", 1, True),
        ('"1"', 1, False),
        ("", None, False),
        ("null", None, True),
        ("[" * 100_000, [1], False),
        ("[" * 4000 + "]" * 4000, [1], False),
        ("1" * 5000, 1, False),
        ("1 2", 1, False),
        ("[" + "0," * 100_000 + "0]", [0], False),
    ],
)
def test_results_agree_as_json_values(found, expected, same):
    assert same_result(found.encode(), expected) is same
