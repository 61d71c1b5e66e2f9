from pathlib import Path

import pytest
import torch

from benchmarks.step_cost import batch_of, driver, per_group_loop, vectorised
from benchmarks.timing import median_with_interval
from benchmarks.worker_cost import PeakBytes, worker
from recipe.maths.columns import group_numbers

ROOT = Path(__file__).parents[2]


def test_the_loop_computes_what_the_vectorised_code_computes():
    uids, length_N, advantage_N = batch_of(1024)
    weights, metrics = vectorised(group_numbers(uids), length_N, advantage_N)
    expected, expected_metrics = per_group_loop(uids, length_N, advantage_N)
    for name, weight_N in expected.items():
        torch.testing.assert_close(weights[name], weight_N)
    for key, value in expected_metrics.items():
        assert metrics[key] == pytest.approx(value)


def test_peak_bytes_are_of_what_lives_at_the_same_time():
    with PeakBytes() as counted:
        for _ in range(3):
            block = torch.ones(1000, dtype=torch.uint8)
            other = block.view(10, 100) + torch.ones(100, dtype=torch.uint8)
            del block, other
    assert counted.peak == 1000 + 100 + 1000
    assert counted.now == 0


def test_the_worker_part_measures_every_case():
    found = worker(rows=2, tokens=32, repetitions=3)
    assert [(case["device"], case["dtype"]) for case in found["cases"]][:2] == [
        ("cpu", "float32"),
        ("cpu", "bfloat16"),
    ]
    for case in found["cases"]:
        assert case["time_ratio"]["median"] > 0
        assert 0.9 < case["memory_ratio"] < 1.1


def test_the_interval_holds_the_median():
    found = median_with_interval([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found["low"] <= found["median"] == 3.0 <= found["high"]


def test_the_driver_part_measures_every_size(monkeypatch):
    monkeypatch.setattr("benchmarks.step_cost.SIZES", [1024, 16_384, 65_536])
    monkeypatch.setattr("benchmarks.step_cost.TARGET_SIZE", 1024)
    threads = torch.get_num_threads()
    found = driver()
    torch.set_num_threads(threads)
    assert [row["responses"] for row in found["sizes"]] == [1024, 16_384, 65_536]
    assert found["sizes"][0]["loop_over_ours"] > 1
