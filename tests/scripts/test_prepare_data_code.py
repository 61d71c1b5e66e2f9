import base64
import json
import os
import pickle
import zlib

import pytest
from prepared import prepare, refused, write_lines, write_parquet

from reward.code.code_answer import read_tests
from reward.grader import parse_tests
from scripts.data.pickled import text_of_pickle, unpack


class Attack:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def packed(value, protocol=pickle.DEFAULT_PROTOCOL):
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def case(given, expected, kind="stdin"):
    return {"input": given, "output": expected, "testtype": kind}


def row(question="Add two numbers.", private=None, **changes):
    cases = [case("1 2\n", "3\n")]
    return {
        "question_title": "Sum",
        "question_content": question,
        "platform": "atcoder",
        "question_id": "abc301_a",
        "contest_id": "abc301",
        "contest_date": "2024-08-17T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(cases),
        "private_test_cases": private or packed(json.dumps([case("4 5\n", "9\n")])),
        "metadata": "{}",
    } | changes


def functional(**changes):
    cases = [case("[1, 2]\n3", "[4, 5]", "functional")]
    return row(
        "Shift a list.",
        json.dumps(cases),
        public_test_cases=json.dumps(cases),
        metadata=json.dumps({"func_name": "shift"}),
        starter_code="class Solution:\n    def shift(self, a, k):\n        ",
        **changes,
    )


@pytest.fixture
def source(tmp_path):
    return tmp_path / "test.jsonl"


def test_tests_on_stdin_are_unpacked_public_ones_first(tmp_path, source):
    found = prepare(tmp_path, "livecodebench", write_lines(source, [row()]))
    assert json.loads(found.truths[0]) == {
        "inputs": ["1 2\n", "4 5\n"],
        "outputs": ["3\n", "9\n"],
    }
    assert found.prompts[0].startswith("Add two numbers.\n\nSolve this in Python.")
    assert "```python" in found.prompts[0]
    kept = {key: value for key, value in found.info[0].items() if value is not None}
    assert kept == {
        "index": 0,
        "split": "test",
        "question_id": "abc301_a",
        "platform": "atcoder",
        "difficulty": "easy",
        "contest_date": "2024-08-17",
    }
    assert (found.rows[0]["data_source"], found.rows[0]["ability"]) == ("livecodebench", "code")


def test_tests_of_a_function_are_read_by_the_grader_with_their_arguments(tmp_path, source):
    found = prepare(tmp_path, "livecodebench", write_lines(source, [functional()]))
    name, cases = read_tests(parse_tests(found.truths[0]))
    assert (name, cases[0].given, cases[0].expected) == ("shift", [[1, 2], 3], [4, 5])
    assert "```python\nclass Solution:\n    def shift(self, a, k):\n```" in found.prompts[0]


def test_the_parquet_form_with_dates_of_its_own_type_is_read(tmp_path):
    import datetime

    day = datetime.datetime(2024, 8, 17)
    source = write_parquet(tmp_path / "test.parquet", [row(contest_date=day)])
    found = prepare(tmp_path, "livecodebench", source)
    assert found.info[0]["contest_date"] == "2024-08-17"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--from-date", "2024-02-01"], [2, 3]),
        (["--to-date", "2024-02-01"], [1, 2]),
        (["--from-date", "2024-01-02", "--to-date", "2024-02-28"], [2]),
    ],
)
def test_contests_can_be_chosen_by_their_day_ends_included(tmp_path, source, options, kept):
    days = {n: f"2024-0{n}-01T00:00:00" for n in (1, 2, 3)}
    rows = [row(f"Q{n}", contest_date=day, question_id=str(n)) for n, day in days.items()]
    found = prepare(tmp_path, "livecodebench", write_lines(source, rows), *options)
    assert [int(x["question_id"]) for x in found.info] == kept
    assert found.counts["prompts_filtered"] == 3 - len(kept)


def test_a_pickle_that_would_run_something_is_refused_listed_and_not_run(tmp_path, source):
    mark = tmp_path / "ran"
    attacks = [packed(Attack(mark), protocol) for protocol in range(6)]
    attacks += [packed(["[]", Attack(mark)]), packed({"a": 1}), packed(b"[]")]
    rows = [row(), *(row(f"Q{n}", attack) for n, attack in enumerate(attacks))]
    found = prepare(tmp_path, "livecodebench", write_lines(source, rows))
    assert not mark.exists()
    assert len(found.rows) == 1
    assert [line["index"] for line in found.dropped] == list(range(1, 10))
    assert {line["reason"] for line in found.dropped} == {"unreadable_truth"}
    assert all("refused and not run" in line["detail"] for line in found.dropped)
    pickle.loads(zlib.decompress(base64.b64decode(attacks[0])))
    assert mark.exists()  # it is an attack where pickles are loaded


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("text", ["", "[1]", "é\n" * 200, "x" * 70_000])
def test_a_pickled_text_is_read_in_every_protocol(protocol, text):
    assert unpack(packed(text, protocol)) == text


def test_code_behind_a_text_in_the_same_pickle_is_refused(tmp_path):
    attack = pickle.dumps("x", 0)[:-1] + b"0" + pickle.dumps(Attack(tmp_path / "ran"), 0)
    with pytest.raises(ValueError, match="refused and not run"):
        text_of_pickle(attack)


def test_a_bomb_is_refused_before_it_is_unpacked():
    with pytest.raises(ValueError, match="over 1000 bytes"):
        unpack(packed("x" * 100_000), max_bytes=1000)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"private": "no base64!"}, "neither JSON nor base64 of zlib"),
        ({"private": base64.b64encode(b"plain").decode()}, "neither JSON nor base64 of zlib"),
        ({"private": packed("{cut")}, "private_test_cases is no JSON"),
        ({"private": packed("x" * 99)[:40]}, ""),
        ({"private": '["a"]'}, "expected a list of tests"),
        ({"private": json.dumps([case("1", "1", "functional")])}, "but func_name is None"),
        ({"metadata": '{"func_name": "f"}'}, "but func_name is 'f'"),
        ({"metadata": '{"func_name": '}, "metadata is no JSON"),
        ({"public_test_cases": "[]", "private": "[]"}, "has 0 inputs"),
        ({"private": json.dumps([case(1, 2)])}, "must be strings"),
        ({"contest_date": "soon"}, "expected one such as 2024-08-17"),
        ({"question": " "}, "expected a text that is not empty"),
    ],
)
def test_a_row_with_broken_tests_is_dropped_with_its_reason(tmp_path, source, changes, why):
    changes = {"question": "Broken.", **changes}
    found = prepare(tmp_path, "livecodebench", write_lines(source, [row(), row(**changes)]))
    assert len(found.rows) == 1
    (line,) = found.dropped
    assert line["index"] == 1 and why in line["detail"]


def test_copies_of_a_problem_must_have_the_same_tests(tmp_path, source):
    other = packed(json.dumps([case("7 8\n", "15\n")]))
    rows = [row("A"), row("A"), row("B"), row("B", other)]
    found = prepare(tmp_path, "livecodebench", write_lines(source, rows))
    assert found.prompts[0].startswith("A\n\n") and len(found.rows) == 1
    assert [(line["index"], line["reason"]) for line in found.dropped] == [(2, "conflicting")]


def test_a_template_for_mathematics_is_refused_for_code(tmp_path, source, capsys):
    arguments = ["--source", write_lines(source, [row()]), "--out", tmp_path / "out"]
    message = refused(capsys, "livecodebench", *arguments, "--template", "boxed")
    assert "Use code or none" in message
    found = prepare(tmp_path, "livecodebench", source, "--template", "none")
    assert found.prompts == ["Add two numbers."]
