import csv
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from recipe.analysis.readers.table import Table, parse_columns
from recipe.analysis.rollouts import Options
from recipe.analyze import main
from recipe.base.errors import UserError
from scripts.tiny_tokenizer import build_tokenizer

ROWS = [
    {
        "question": f"{step} + {n // 4}",
        "answer": "x" * 2**n,
        "grade": n % 2,
        "tokens": 1 + n,
        "at": step,
    }
    for step in (3, 4)
    for n in range(8)
]
COLUMNS = "prompt=question,response=answer,reward=grade,length=tokens,step=at"


def write(folder, suffix, rows=ROWS):
    path = folder / f"run{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def read(*files, columns=COLUMNS, **options):
    return Table().read(files, Options(columns=parse_columns(columns), **options))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_every_kind_of_table_gives_the_same_responses(suffix, tmp_path):
    found = read(write(tmp_path, suffix))
    assert found.step_N.tolist() == [3] * 8 + [4] * 8
    assert found.group_N.tolist() == [number // 4 for number in range(16)]
    assert found.length_N.tolist() == [*range(1, 9)] * 2
    assert found.score_N.tolist() == [0, 1] * 8 and found.advantage_N is None


def test_a_named_group_and_advantage_are_taken(tmp_path):
    rows = [row | {"a": 0.5 - row["grade"], "id": row["grade"]} for row in ROWS]
    columns = "group=id,advantage=a,length=tokens,step=at"
    found = read(write(tmp_path, ".jsonl", rows), columns=columns)
    assert found.group_N.tolist() == [0, 1] * 4 + [2, 3] * 4
    assert found.advantage_N.tolist() == [0.5, -0.5] * 8


def test_without_a_step_each_file_is_one(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    files = [write(tmp_path / name, ".csv") for name in "ab"]
    found = read(*files, columns="prompt=question,reward=grade,length=tokens")
    assert found.step_N.tolist() == [1] * 16 + [2] * 16
    assert "every file is taken for the responses of one step" in found.notes[0]
    named = [{"step": row["at"], **row} for row in ROWS]
    by_name = read(
        write(tmp_path, ".csv", named), columns="prompt=question,reward=grade,length=tokens"
    )
    assert set(by_name.step_N) == {3, 4}


def test_texts_are_counted_by_a_tokenizer_and_never_as_characters(tmp_path):
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    path, columns = write(tmp_path, ".csv"), "prompt=question,response=answer,reward=grade,step=at"
    found = read(path, columns=columns, tokenizer=str(tmp_path / "tokenizer"))
    assert found.length_N.tolist() == [2**n for n in range(8)] * 2
    with pytest.raises(UserError, match=r"no token counts.*--tokenizer FOLDER.*--length-column"):
        read(path, columns=columns)
    found = read(path, columns=columns, length_column="tokens")
    assert found.length_N.tolist() == [*range(1, 9)] * 2


@pytest.mark.parametrize(
    "columns, said",
    [
        ("prompt=question,length=tokens", "but not reward or advantage.*has question, answer"),
        ("reward=grade,length=tokens", "but not prompt or group"),
        ("prompt=nothing,reward=grade,length=tokens", "names prompt=nothing, but .* has question"),
        ("prompt=question,reward=grade", "neither length nor response"),
        ("prompt=question,score=grade", "has 'score=grade', but takes pairs.*roles are prompt"),
        ("prompt", "has 'prompt', but takes pairs"),
    ],
)
def test_columns_that_do_not_do_are_answered_with_what_would(columns, said, tmp_path):
    with pytest.raises(UserError, match=said):
        read(write(tmp_path, ".csv"), columns=columns)


@pytest.mark.parametrize(
    "column, value, said",
    [
        ("grade", None, "row 3: "),
        ("grade", "good", "could not convert string to float: 'good'"),
        ("grade", float("nan"), "the score nan"),
        ("tokens", 2.5, "the length 2.5"),
        ("tokens", -1, "the length -1"),
    ],
)
def test_a_cell_that_cannot_be_used_is_named_and_can_be_skipped(column, value, said, tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[2][column] = value
    path = write(tmp_path, ".jsonl", rows)
    with pytest.raises(UserError, match=said):
        read(path)
    assert read(path, skip_bad=True).num_bad == 1


def test_a_line_that_is_no_json_and_a_file_that_is_no_table_are_refused(tmp_path):
    path = write(tmp_path, ".jsonl")
    path.write_text(path.read_text() + '{"question": "cut o')
    with pytest.raises(UserError, match="row 17"):
        read(path)
    (tmp_path / "run.txt").write_text("text")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read(write(tmp_path, ".csv"), tmp_path / "run.txt")


def analyze(monkeypatch, tmp_path, *arguments):
    command = ["analyze", *map(str, arguments), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    main()
    return json.loads((tmp_path / "out/analysis.json").read_text())


def test_the_command_reads_a_table_and_says_so(tmp_path, monkeypatch, capsys):
    path = write(tmp_path, ".csv")
    found = analyze(monkeypatch, tmp_path, path, "--columns", COLUMNS)
    assert found["groups"] == 4 and found["drift"]["found"]["change"]["value"] == 0
    assert "in the format table" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--columns", COLUMNS, "--format", "verl"], "--format is verl"),
        (["--columns", "advantage=grade,group=at,length=tokens", "--advantage=grpo"], "no single"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, said, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=said):
        analyze(monkeypatch, tmp_path, write(tmp_path, ".csv"), *arguments)


def test_the_lines_for_openrlhf_in_the_documentation_give_a_table(tmp_path):
    """OpenRLHF calls a reward function with one response at a time; the query has both texts."""
    page = (Path(__file__).parents[4] / "docs/analyze.md").read_text()
    [code] = re.findall(r"(?ms)^```python\n(.*?)^```", page)
    scope = {}
    exec(code, scope)
    path = tmp_path / "responses.jsonl"
    for row in ROWS[:8]:
        query = f"<|im_start|>{row['question']}{row['answer']}"
        scope["save"](query, row["question"], float(row["grade"]), path)
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    columns = "prompt=prompt,response=response,reward=reward"
    found = read(path, columns=columns, tokenizer=str(tmp_path / "tokenizer"))
    assert found.length_N.tolist() == [2**n for n in range(8)]
    assert found.group_N.tolist() == [0] * 4 + [1] * 4
