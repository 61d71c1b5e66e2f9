import csv
import io
import re

import numpy as np
import pandas
import pytest
from evaluations import cells, laptop, rows_of, table_of, write

from eval import table
from eval.tables.estimates import ONE_SEED
from eval.tables.printed import as_csv, escaped, latex, letters, markdown, marked


def average(folder, tasks=()):
    return table_of(rows_of(folder, tasks), "average")


@pytest.fixture(scope="module")
def on_a_laptop(tmp_path_factory):
    return laptop(tmp_path_factory.mktemp("laptop"))


def test_one_note_has_one_mark_and_marks_do_not_end():
    assert [letters(n) for n in (0, 25, 26, 27, 52, 702)] == ["a", "z", "aa", "ab", "ba", "aaa"]


def test_notes_are_marked_in_markdown_and_latex(tmp_path):
    write(tmp_path, experiment="cpu_demo")
    write(tmp_path, experiment="cpu_demo", rule="token_batch", seed=1)
    made = average(tmp_path)
    lines, said = marked(made)
    assert [mark for _, mark in lines[1]] == ["a", "", "b", "b"]
    assert said["b"] == ONE_SEED
    text = markdown(made)
    assert "(1)^b |" in text
    assert f"- ^b {ONE_SEED}" in text
    assert r"(1)\textsuperscript{b}" in latex(made)
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_text_is_escaped_for_latex():
    assert escaped("a_b & 5 % {x} #1 $ ~ ^ \\ <") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}"
    )
    assert escaped("[-0.5, +7.2] DAPO-17k a - b") == "[$-$0.5, +7.2] DAPO-17k a $-$ b"


def test_latex_is_balanced_and_every_line_has_its_cells(on_a_laptop):
    made = table.tables(rows_of(on_a_laptop), "token")
    text = table.as_latex(made)
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    # What is left without commands, escapes, minus signs and column marks needs no escape.
    left = re.sub(r"\\[a-zA-Z]+|\\.|\$-\$| & |^%.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"[_#$&%~^<>|]", left)
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 4
    columns, between = 0, False
    for line in text.splitlines():
        if found := re.search(r"\\begin\{tabular\}\{([lr]+)\}", line):
            columns, between = len(found[1]), True
        elif r"\end{tabular}" in line:
            between = False
        elif between and line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == columns - 1


def test_the_csv_has_the_same_numbers_for_csv_and_pandas(on_a_laptop):
    made = table.tables(rows_of(on_a_laptop), "token")
    text = as_csv(made)
    lines = list(csv.DictReader(io.StringIO(text)))
    frame = pandas.read_csv(io.StringIO(text))
    assert list(frame.columns) == [
        "table",
        "quantity",
        "experiment",
        "method",
        "task",
        "step",
        "estimate",
        "low",
        "high",
        "seeds",
        "note",
    ]
    assert len(lines) == len(frame) == sum(len(one.measurements) for one in made)
    numbers = [float(line["estimate"]) for line in lines]
    np.testing.assert_array_equal(numbers, frame["estimate"])
    mean = frame[(frame.table == "average") & (frame.method == "balanced")].iloc[0]
    assert (
        f"{mean.estimate:.1f} [{mean.low:.1f}, {mean.high:.1f}] ({mean.seeds:.0f})"
        == (cells(made[0])["balanced"])
    )
