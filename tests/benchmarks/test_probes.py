import importlib
import json
import re

import pytest

from benchmarks.probes import PROBES, RESULTS, table

RESULT = {name: json.loads((RESULTS / name / "result.json").read_text()) for name in PROBES}


def test_every_row_of_the_table_is_a_prediction_and_its_measurement():
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table()[2:]]
    assert {name.strip("`") for name, *_ in rows} == set(PROBES)
    for _, quantity, predicted, measured in rows:
        assert float(measured) == pytest.approx(float(predicted), rel=1e-3, abs=2e-4), quantity


@pytest.mark.parametrize("name", PROBES)
def test_committed_results_are_of_a_clean_commit_and_one_command(name):
    result = RESULT[name]
    assert re.fullmatch("[0-9a-f]{12}", result["commit"])
    assert result["command"] == f"python -m recipe.probe {name}"
    assert result["seed"] == 0 and (RESULTS / name / f"{name}.png").exists()


@pytest.mark.parametrize("name", PROBES)
def test_the_report_of_a_committed_result_says_its_largest_deviation(name):
    lines = importlib.import_module(f"recipe.probes.{name}").report(RESULT[name])
    assert f"{RESULT[name]['largest_deviation']:.1e}." in lines[-1]
