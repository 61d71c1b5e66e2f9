import re
import warnings

import pytest

from recipe.maths.rules import RULES
from recipe.run.report import mean, write_report

SUMMARY = {
    "experiment": "cpu_demo",
    "rule": "balanced",
    "seed": 0,
    "steps": 2,
    "seconds": 100.0,
    "startup_seconds": 60.0,
    "peak_memory_gib": 6.5,
    "val_start": 0.25,
    "val_end": 0.5,
    "commit": "abc",
    "command": "python -m recipe.main",
    "versions": {"verl": "0.9.1"},
}


def record(step):
    data = {f"aggregation/objective_share_negative/{rule}": 0.5 + 0.1 * step for rule in RULES}
    return step, data | {
        "critic/rewards/mean": -0.5 + step,
        "reward/correct": 0.25,
        "aggregation/length_gap": 0.3,
        "aggregation/length_positive": 10.0,
        "aggregation/length_negative": 20.0,
        "actor/grad_norm": 0.5,
        "actor/update_norm": 0.01,
        "actor/grad_clipped": 0.0,
    }


def squeezed(report):
    return re.sub(" +", " ", report.read_text())


RECORDS = [(0, {"val-core/x/acc/mean@1": 0.25}), record(1), record(2)]


def test_a_report_has_its_tables_and_pictures(tmp_path):
    written = write_report(tmp_path, RECORDS, SUMMARY)
    assert [path.name for path in written] == [
        "report.md",
        "reward.png",
        "length.png",
        "share.png",
        "gradient.png",
    ]
    for picture in written[1:]:
        assert picture.read_bytes().startswith(b"\x89PNG")
    text = squeezed(written[0])
    assert "| held-out accuracy | 25.0% | 50.0% |" in text
    assert "| balanced (trained) | 0.65 | - |" in text
    assert "![share](share.png)" in text
    assert "Commit abc; `python -m recipe.main`; verl 0.9.1." in text


def test_a_metric_that_no_step_has_is_left_out_and_one_that_a_step_lacks_is_a_dash(tmp_path):
    lacking = [*RECORDS, (3, {"critic/rewards/mean": 1.0})]
    text = squeezed(write_report(tmp_path, lacking, SUMMARY)[0])
    assert "mean length, correct" not in text and "DisCO" not in text
    assert re.search(r"\| length gap [^|]*\| [^-|]+ \| - \|", text)


def test_a_run_without_a_correct_response_draws_its_pictures_without_a_warning(tmp_path):
    bare = [(step, {"critic/rewards/mean": 0.0}) for step in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(tmp_path, bare, SUMMARY | {"val_start": None, "val_end": None})


def test_the_mean_is_over_the_steps_that_have_the_metric():
    assert mean(RECORDS, "critic/rewards/mean") == pytest.approx(1.0)
    assert mean(RECORDS, "nothing") is None
