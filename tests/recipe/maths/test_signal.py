"""The learning rate's factor, from the gradients of two halves of a mini-batch."""

import math

import pytest
import torch

from recipe.maths.signal import SignalToNoise


def test_the_factor_is_snr_over_one_plus_snr():
    """Of gradients that are drawn: |E g|^2 = 4, and tr Var(g) of a whole mini-batch is 8."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([2.0, 0.0, 0.0, 0.0]).double()
    found = SignalToNoise(memory=0.9999)
    for _ in range(20_000):
        halves = mean + 2 * torch.randn(2, 4, generator=generator, dtype=torch.double)
        found.add((halves[0] @ halves[1]).item(), halves.mean(0).square().sum().item())
    snr = 4 / 8
    assert found.factor == pytest.approx(snr / (1 + snr), abs=0.03)


def test_the_average_forgets_by_its_memory():
    found = SignalToNoise(memory=0.5)
    assert found.factor == 1.0
    found.add(1.0, 4.0)
    assert found.factor == pytest.approx(1 / 4)
    found.add(3.0, 4.0)
    assert found.factor == pytest.approx((0.5 * 1 + 3) / (0.5 * 4 + 4))


def test_a_signal_below_0_stops_and_a_broken_gradient_changes_nothing():
    found = SignalToNoise(memory=0.9)
    found.add(-1.0, 2.0)
    assert found.factor == 0.0
    for broken in (math.nan, math.inf):
        found.add(broken, 1.0)
        found.add(1.0, broken)
    assert found.factor == 0.0


def test_a_checkpoint_keeps_the_averages(tmp_path):
    found, other = SignalToNoise(memory=0.9), SignalToNoise(memory=0.9)
    found.add(1.0, 3.0)
    found.save(tmp_path / "step")
    other.load(tmp_path / "step")
    assert other.factor == found.factor == pytest.approx(1 / 3)
    with pytest.raises(FileNotFoundError, match=r"no signal.json: .* set follow_snr=null"):
        other.load(tmp_path)
