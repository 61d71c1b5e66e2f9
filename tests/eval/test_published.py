from pathlib import Path

import pytest
from evaluations import rows_of, table_of, write

from eval import published
from recipe.base.paths import CONFIGS

ROOT = Path(__file__).parents[2]


def test_every_published_number_belongs_to_an_experiment_and_says_how_it_was_read():
    paper = published.published()
    assert set(paper.numbers) <= {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")}
    assert set(paper.labels) == set(paper.numbers)
    assert "read second hand" in paper.read
    assert all(0 < x < 1 for cell in paper.numbers.values() for x in cell.values())
    assert all(set(cell) == set(published.RULES) for cell in paper.numbers.values())


@pytest.mark.parametrize(("name", "found"), [("none.md", "No such file"), ("a.md", "no marks")])
def test_a_document_that_cannot_keep_the_table_is_named(name, found, monkeypatch, tmp_path):
    (tmp_path / "a.md").write_text("nothing")
    monkeypatch.setattr("sys.argv", ["published", "--into", str(tmp_path / name)])
    with pytest.raises(SystemExit) as stop:
        published.main()
    said = str(stop.value.code)
    assert said.startswith(f"error: --into is {tmp_path / name}: ")
    assert found in said


def test_published_numbers_stand_in_columns_of_their_own_and_change_no_measured_one(tmp_path):
    write(tmp_path, correct=[4, 0, 2, 2])
    table = table_of(rows_of(tmp_path), "average")
    head = [cell.text for cell in table.head]
    origin = "(arXiv:2605.04077, table 1, read second hand)"
    assert head == [
        "experiment",
        "step",
        "balanced",
        *(f"published {rule} {origin}" for rule in ("sequence", "token", "balanced")),
    ]
    (line,) = table.rows
    assert line[2].text.startswith("50.0 [")
    assert [cell.text for cell in line[3:]] == ["46.14", "43.49", "46.40"]
    found = table.measurements
    measured = found[found.table == "average"]
    assert (list(measured.method), list(measured.estimate)) == (["balanced"], [50.0])
    beside = found[found.table == "published"]
    assert list(beside.estimate) == pytest.approx([46.14, 43.49, 46.40])
    assert set(beside.note) == {"arXiv:2605.04077, table 1, read second hand"}
    assert any("not this table's tasks" in remark for remark in table.remarks)


def test_an_experiment_that_no_paper_has_gets_no_published_columns(tmp_path):
    write(tmp_path, experiment="cpu_demo")
    table = table_of(rows_of(tmp_path), "average")
    assert [cell.text for cell in table.head] == ["experiment", "step", "balanced"]
