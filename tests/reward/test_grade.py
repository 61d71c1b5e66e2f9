import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress

import pytest

from benchmarks.reward_throughput import HANGS
from reward import grade
from reward.errors import RewardError
from reward.math.pool import Pool

ROWS = [
    {"response": "\\boxed{34}", "ground_truth": "34", "id": 0},
    {"response": "Answer: 1+\\ln x", "ground_truth": "\\ln x+1", "data_source": "math_dapo"},
    {"response": "Answer: 3", "ground_truth": 4, "data_source": "math_dapo"},
    {"response": "no idea", "ground_truth": "4"},
    {"response": f"\\boxed{{{HANGS}}}", "ground_truth": "4"},
    {"response": "\\boxed{9^{9^{9^9}}}", "ground_truth": "4"},
    {"response": "```\nprint(4)\n```", "tests": {"inputs": [""], "outputs": ["4"]}},
    {"response": "\ud800 \\boxed{5}", "ground_truth": "5", "extra": 1},
    {"input": "?", "output": "The answer is \u00bd.", "gts": "0.5", "step": 3},
]
OUTCOMES = [
    "correct",
    "correct",
    "incorrect",
    "no_answer",
    "timeout",
    "parse_error",
    "correct",
    "correct",
    "correct",
]
SCORES = [1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_is_graded_in_order(tmp_path, capsys):
    rows, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    assert grade.main([str(rows), "--out", str(out), "--setting", "deadline=4"]) == 0
    graded = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["outcome"] for row in graded] == OUTCOMES
    assert [row["score"] for row in graded] == SCORES
    assert all(given.items() <= row.items() for given, row in zip(ROWS, graded, strict=True))
    assert graded[1]["extracted"] == "1+\\ln x"
    assert "not decided after 4 s" in graded[4]["error"]
    assert all(row["seconds"] > 0 for row in graded)
    summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
    assert (summary["rows"], summary["correct"], summary["timeout"]) == (9, 5, 1)
    assert {"commit", "command", "versions", "seconds"} <= set(summary)
    printed = capsys.readouterr().out
    assert "| correct     |    5 | 55.6% |" in printed
    assert "mean score +0.4444" in printed
    assert not list(tmp_path.glob("*.partial"))


def test_an_option_gives_the_data_source_of_rows_that_name_none(tmp_path):
    rows = write(tmp_path / "dump.jsonl", [{"output": "\\boxed{3}", "gts": "4", "score": 1.0}])
    out = tmp_path / "out.jsonl"
    assert grade.main([str(rows), "--out", str(out), "--data-source", "math_dapo"]) == 0
    assert json.loads(out.read_text())["score"] == -1.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "in.jsonl:2: "),
        ("[]", "in.jsonl:2: a row must be a JSON object, not list"),
        ('{"text": "x"}', "in.jsonl:2: no text in response or output; its fields are text"),
        ('{"response": "x"}', "in.jsonl:2: ground truth is ''"),
        ('{"response": "x", "ground_truth": "1", "data_source": "y"}', "data_source is 'y'"),
        ('{"response": "x", "tests": {"inputs": []}}', "in.jsonl:2: "),
        ('{"response": "5", "ground_truth": ["5"]}', "ground truth is ['5']"),
        ('{"response": "5", "ground_truth": "5", "data_source": 3}', "in.jsonl:2: "),
        ("[" * 100_000, "in.jsonl:2: "),
    ],
)
def test_an_unreadable_row_keeps_its_place_and_has_no_score(tmp_path, capsys, line, said):
    rows, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    correct = json.dumps(ROWS[0])
    rows.write_text(f"{correct}\n{line}\n\n{correct}\n{line}\n")
    assert grade.main([str(rows), "--out", str(out)]) == 1
    graded = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in graded] == [1.0, None, 1.0, None]
    assert [row["outcome"] for row in graded] == ["correct", "invalid_row"] * 2
    assert said in graded[1]["error"]
    printed = capsys.readouterr()
    assert "2 rows could not be read and have no score; the first" in printed.err
    assert said in printed.err
    assert "mean score +1.0000" in printed.out


def test_a_failure_of_the_machinery_keeps_the_rows_graded_so_far(tmp_path, capsys, monkeypatch):
    def broken(self):
        raise RewardError("no more processes")

    monkeypatch.setattr(Pool, "_fork", broken)
    rows, out = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    assert grade.main([str(rows), "--out", str(out)]) == 1
    assert "no more processes" in capsys.readouterr().err
    assert not out.exists()
    assert len((tmp_path / "out.jsonl.partial").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jsonl"], "missing.jsonl is not a file"),
        ([__file__, "--setting", "thinking=maybe"], "thinking is 'maybe'"),
        ([__file__, "--setting", "nothing=1"], "'nothing' does not exist"),
        ([__file__, "--workers", "0"], "workers is 0"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, capsys, arguments, said):
    assert grade.main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_shows_progress_in_a_terminal(tmp_path):
    rows = write(tmp_path / "in.jsonl", ROWS[:4])
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    command = [sys.executable, "-m", "reward.grade", str(rows), "--out", str(tmp_path / "o")]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=its, check=False)
    os.close(its)
    said = b""
    # The end of a terminal whose other side is closed is an error.
    with suppress(OSError):
        while piece := os.read(ours, 1 << 16):
            said += piece
    os.close(ours)
    assert done.returncode == 0, said
    assert b"in.jsonl: 100%" in said
