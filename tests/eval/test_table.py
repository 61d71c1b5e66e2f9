from pathlib import Path

import numpy as np
import pytest
from evaluations import cells, content, draw, laptop, rows_of, table_of, write

from eval import table
from eval.stats import mean_interval, paired_interval
from eval.tables.results import read_results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_a_laptop(tmp_path_factory):
    return laptop(tmp_path_factory.mktemp("laptop"))


def test_a_row_without_the_baseline_is_named_and_no_baseline_at_all_is_refused(tmp_path):
    write(tmp_path, experiment="cpu_demo", rule="sequence")
    write(tmp_path, experiment="cpu_demo", rule="balanced")
    with pytest.raises(ValueError, match=r"no result is of token.*there are balanced, sequence"):
        table.tables(rows_of(tmp_path), "token")
    write(tmp_path, rule="token")
    write(tmp_path, rule="balanced")
    made = table_of(rows_of(tmp_path), "difference")
    assert len(made.rows) == 1
    assert "cpu_demo has no results of token: nothing is compared there." in made.remarks


def test_models_that_are_no_runs_stand_only_where_tasks_are(tmp_path):
    write(tmp_path, rule=None)
    assert [made.name for made in table.tables(rows_of(tmp_path), "token")] == ["task math500"]
    write(tmp_path)
    made = table.tables(rows_of(tmp_path), "token")
    assert [one.name for one in made] == ["average", "stability", "task math500"]
    assert len(made[0].rows) == 1


def test_the_laptops_case(on_a_laptop, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["table", str(on_a_laptop), "--out", str(out)])
    table.main()
    said = capsys.readouterr()
    rows = rows_of(on_a_laptop)
    scores = {
        rule: [np.array(draw(0.58 + gain, 256, number, seed, 30)) / 4 for seed in range(3)]
        for number, (rule, gain) in enumerate((("token", 0), ("balanced", 0.03)))
    }
    for rule, score in scores.items():
        found = mean_interval(np.array(score))
        estimate, low, high = (100 * x for x in found[:3])
        text = f"{estimate:.1f} [{low:.1f}, {high:.1f}] (3)"
        assert cells(table_of(rows, "average"))[rule] == text
        assert text in said.out
    found = paired_interval(np.array(scores["balanced"]), np.array(scores["token"]))
    estimate, low, high = (100 * x for x in found[:3])
    assert f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]" in said.out
    assert "some/base-model" in said.out
    names = {"table.md", "table.tex", "table.csv", "steps_cpu_demo.png", "gain.png"}
    assert {path.name for path in out.iterdir()} == names
    assert all(f"wrote {out / name}" in said.err for name in names)
    document = (out / "table.md").read_text()
    assert document.startswith(said.out)
    assert "![gain](gain.png)" in document
    # What is said of all tables is said once.
    assert said.out.count("Intervals are 95 %") == 1


@pytest.mark.parametrize(("form", "begins"), [("latex", "% \\usepackage"), ("csv", "table,quant")])
def test_another_format_is_printed_alone(form, begins, on_a_laptop, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["table", str(on_a_laptop), "--format", form])
    table.main()
    said = capsys.readouterr()
    assert said.out.startswith(begins)
    assert said.err == ""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["none"], "none is no folder"),
        ([".", "--tasks", "aime24"], "no result is of aime24"),
        ([".", "--baseline", "tokens"], "no result is of tokens"),
        ([".", "--out", "a.json/x"], "a.json/x"),
    ],
)
def test_a_mistake_is_answered_in_one_paragraph(given, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, rule="token")
    write(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["table", *given])
    with pytest.raises(SystemExit) as stop:
        table.main()
    said = str(stop.value.code)
    assert said.startswith("error: ")
    assert found in said
    assert "\n" not in said


def test_the_helper_makes_what_the_reader_takes(tmp_path):
    write(tmp_path)
    assert read_results([tmp_path])[0].content == content()


def test_a_table_goes_between_the_marks_of_a_document(on_a_laptop, tmp_path, monkeypatch, capsys):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- evaluation:begin -->\nold\n<!-- evaluation:end -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["table", str(on_a_laptop), "--into", str(document)])
    table.main()
    printed = capsys.readouterr().out
    begin, inside, end = document.read_text().partition(printed)
    assert (begin, inside, end) == (
        "before\n<!-- evaluation:begin -->\n",
        printed,
        "<!-- evaluation:end -->\nafter\n",
    )
