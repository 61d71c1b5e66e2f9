import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.interval_coverage import (
    INDEPENDENT,
    LEVEL,
    METHODS,
    OURS,
    REGIMES,
    RESULT,
    Regime,
    Setting,
    bootstrap_both,
    coverage,
    measure,
    over_problems,
    over_seeds,
    seed_means,
    simulate,
    summary,
    truth,
    two_way,
)
from eval.stats import mean_interval, paired_interval

ROOT = Path(__file__).parents[2]
SMALL = Setting("3 x 8", 3, (8,), (4,), 3)
TASKS = Setting("2 x two tasks", 2, (6, 8), (4, 2), 2)


@pytest.mark.parametrize("regime", [Regime(0.0, 0.0, 0.0), Regime(1.0, 0.7, 0.7)])
def test_the_truth_is_the_mean_difference_of_many_simulations(regime):
    tasks = simulate(Setting("", 2, (40, 10), (4, 8), 1), regime, 8000, np.random.default_rng(0))
    mean_R = seed_means(tasks).mean(1)
    assert abs(mean_R.mean() - truth(regime)) < 4 * mean_R.std() / len(mean_R) ** 0.5
    assert mean_R.std() / len(mean_R) ** 0.5 < 0.1 * truth(regime)


def test_seeds_move_both_rules_of_every_task_and_problems_are_wide():
    random, setting = np.random.default_rng(0), Setting("", 2, (400, 400), (4, 4), 1)
    tasks = simulate(setting, Regime(1.0, 0.0, 0.7), 500, random)
    means = np.array([task.mean(-1).flatten() for task in tasks]).reshape(4, -1)
    correlation = np.corrcoef(means - means.mean())
    # Sampling and difficulty add to the variance of a seed's mean, so these are below 1 and 0.7.
    same_rule = correlation[0, 2]
    assert 0.8 < same_rule < 1
    for other in (1, 3):
        assert 0.5 < correlation[0, other] < same_rule
    extreme = (tasks[0].mean((0, 2)) < 0.05) | (tasks[0].mean((0, 2)) > 0.95)
    assert 0.3 < extreme.mean() < 0.5


def test_the_usual_intervals_are_limits_of_ours():
    random, regime = np.random.default_rng(0), Regime(0.3, 0.7, 0.0)
    tasks = simulate(Setting("", 1, (30,), (4,), 1), regime, 5, random)
    for i in range(5):
        found = paired_interval(tasks[0][0, i], tasks[0][1, i])
        expected = [end[i] for end in over_problems(tasks, random)]
        assert [found.low, found.high] == pytest.approx(expected, rel=1e-3)
    tasks = [np.repeat(task[..., :1], 30, axis=-1) for task in simulate(SMALL, regime, 5, random)]
    tasks[0] += random.normal(size=(2, 5, 3, 1))
    for i in range(5):
        found = mean_interval(tasks[0][0, i] - tasks[0][1, i])
        for method in (over_seeds, two_way):
            expected = [end[i] for end in method(tasks, random)]
            assert [found.low, found.high] == pytest.approx(expected, rel=1e-3)


def test_the_bootstrap_of_both_factors_draws_seeds_and_problems():
    random = np.random.default_rng(0)
    task = random.normal(size=(2, 1, 3, 8))
    low, high = bootstrap_both([task], random)
    drawn = []
    difference_SP = task[0, 0] - task[1, 0]
    for _ in range(4000):
        rows, columns = random.integers(0, 3, 3), random.integers(0, 8, 8)
        drawn.append(difference_SP[rows][:, columns].mean())
    expected = np.quantile(drawn, [0.025, 0.975])
    assert [low[0], high[0]] == pytest.approx(expected, abs=0.1 * float(np.ptp(expected)))


def test_every_method_is_measured_in_every_regime_it_is_meant_for():
    found = measure((SMALL, TASKS))
    for setting in found["settings"]:
        assert len(setting["regimes"]) == len(REGIMES)
        for regime in setting["regimes"]:
            left_out = {INDEPENDENT} if regime["c"] else set()
            assert set(regime["methods"]) == set(METHODS) - left_out
            for result in regime["methods"].values():
                assert 0 <= result["coverage"] <= 1
                assert 0 < result["mean_width"] < 1000
    assert json.loads(json.dumps(found))["settings"][0]["name"] == "3 x 8"


def test_a_simulation_is_repeated_by_its_seeds():
    assert coverage(SMALL, REGIMES[3], [1]) == coverage(SMALL, REGIMES[3], [1])
    assert coverage(SMALL, REGIMES[3], [1]) != coverage(SMALL, REGIMES[3], [2])


def test_the_table_has_the_range_of_coverage_and_the_median_ratio_of_widths():
    def regime(covered, width, *left_out):
        return {
            "methods": {
                name: {"coverage": covered, "mean_width": 1.0 if name == OURS else width}
                for name in METHODS
                if name not in left_out
            }
        }

    regimes = [regime(0.95, 2.0), regime(0.9, 0.5, INDEPENDENT), regime(0.961, 0.8)]
    lines = summary({"settings": [{"name": "3 x 30", "regimes": regimes}]})
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines}
    assert cells["interval"] == "3 x 30"
    assert cells[OURS] == "90.0 to 96.1 %; 1.00"
    assert cells[INDEPENDENT] == "95.0 to 96.1 %; 1.40"
    assert cells["t interval over seeds"] == "90.0 to 96.1 %; 0.80"


def test_the_committed_coverage_is_of_the_level_of_the_code():
    assert json.loads(RESULT.read_text())["level"] == LEVEL
