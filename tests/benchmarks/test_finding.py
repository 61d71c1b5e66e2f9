import re

import pytest

from benchmarks.finding import OPTIONS, POLICIES, SEEDS, TASKS, read_cells
from benchmarks.finding_tables import factor_of, interval, ratio_of_snr, setting
from recipe.base.paths import ROOT


@pytest.fixture(scope="module")
def cells():
    return read_cells()


def test_every_cell_is_of_one_clean_commit_and_one_command(cells):
    assert len(cells) == len(TASKS) * len(POLICIES) * len(SEEDS)
    assert len({(cell["commit"], cell["command"]) for cell in cells}) == 1
    assert "dirty" not in cells[0]["commit"]
    assert {tuple(setting(cell, 8, 8)["rules"]) for cell in cells} == {OPTIONS.rules}


def test_the_ratio_is_that_of_the_theory_and_largest_at_the_best_factor():
    """R = ((1 - p) / v+ + p / v-) * ((1 - p) v+ + p v-), with v+ = 1 and v- = 4."""
    p, v = 0.3, 4.0
    assert ratio_of_snr(p, v, 1 / v) == pytest.approx((0.7 + 0.3 / 4) * (0.7 + 0.3 * 4))
    assert ratio_of_snr(p, v, 1.0) == 1
    assert all(ratio_of_snr(p, v, factor) < ratio_of_snr(p, v, 1 / v) for factor in (0.1, 0.5))


def test_the_factor_of_a_rule_is_in_the_shares_of_the_signs():
    """Under equal factors the signs have 1 to 3 of the objective, under this rule 1 to 1."""
    rules = {"constant": {"share_negative": 0.75}, "rule": {"share_negative": 0.5}}
    assert factor_of(rules, "rule") == pytest.approx(1 / 3)


def test_an_interval_over_seeds_is_students():
    """Five values of standard deviation 1.5811: 2.7764 * 1.5811 / sqrt(5)."""
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and half == pytest.approx(1.9632, abs=1e-4)


def test_the_numbers_of_the_text_are_those_of_the_tables():
    text = (ROOT / "docs/finding.md").read_text()
    prose, _, tables = text.partition("## The numbers")
    tables = set(re.findall(r"(\d\.\d{3} \+- \d\.\d{3})", tables))
    told = re.findall(r"(\d\.\d{3}) \+-\s+(\d\.\d{3})", prose)
    assert len(told) > 12
    assert [pair for pair in told if " +- ".join(pair) not in tables] == []
