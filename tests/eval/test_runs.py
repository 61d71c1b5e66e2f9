import json
import re
from pathlib import Path

import pytest

from eval.runs import read_summaries, rows

ROOT = Path(__file__).parents[2]


def summary(seed, start, end, rule="balanced", overrides=()):
    return {
        "overrides": list(overrides),
        "experiment": "cpu_demo",
        "rule": rule,
        "seed": seed,
        "seconds": 120,
        "val_start": start,
        "val_end": end,
        "commit": "abc",
    }


def test_a_row_holds_means_over_seeds_and_the_range_of_gains():
    runs = [summary(0, 0.25, 0.5), summary(1, 0.35, 0.5), summary(0, 0.3, 0.4, "token")]
    assert rows(runs) == [
        ("cpu_demo", "balanced", "2", "30.0%", "50.0%", "+20.0 (+15.0 to +25.0)", "2.0", "abc"),
        ("cpu_demo", "token", "1", "30.0%", "40.0%", "+10.0", "2.0", "abc"),
    ]


def test_runs_with_other_overrides_are_rows_of_their_own_and_seeds_are_distinct():
    runs = [summary(0, 0.25, 0.5), summary(0, 0.25, 0.5, overrides=["lr=1"])]
    assert [row[0] for row in rows(runs)] == ["cpu_demo", "cpu_demo lr=1"]
    with pytest.raises(ValueError, match="have seed 0; keep one"):
        rows([*runs, summary(0, 0.1, 0.2)])


def test_a_run_without_validation_and_one_moved_aside_are_no_rows(tmp_path):
    assert rows([summary(0, None, None)]) == []
    (tmp_path / "run~1").mkdir()
    (tmp_path / "run~1" / "summary.json").write_text(json.dumps(summary(0, 0, 1)))
    with pytest.raises(ValueError, match="no run summary"):
        read_summaries(tmp_path)


def test_summaries_are_found_and_other_files_are_not(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary(0, 0, 1)))
    (tmp_path / "other.json").write_text("{}")
    assert len(read_summaries(tmp_path)) == 1
    with pytest.raises(ValueError, match="no run summary below"):
        read_summaries(tmp_path / "nowhere")


def test_committed_results_name_no_folder_of_a_machine():
    texts = {path: path.read_text() for path in (ROOT / "benchmarks" / "results").rglob("*.json*")}
    assert not [
        path for path, text in texts.items() if re.search(r"[\"=](/tmp|/home|/root|/work)/", text)
    ]
