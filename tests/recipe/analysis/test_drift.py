import numpy as np
import pytest
from batches import batches
from hypothesis import given, settings

from recipe.analysis.drift import SIGNS, changes, drift


def sums(batch):
    """Counts and tokens by sign of a batch."""
    sides = (batch.advantage_N > 0, batch.advantage_N < 0, batch.advantage_N == 0)
    found = {}
    for sign, is_N in zip(SIGNS, sides, strict=True):
        found[f"count/{sign}"] = is_N.sum().double().numpy()
        found[f"tokens/{sign}"] = (batch.length_N * is_N).sum().double().numpy()
    return found


@settings(max_examples=50)
@given(batches(), batches())
def test_the_parts_of_a_change_add_up_to_it(before, after):
    found = changes(sums(before), sums(after))
    expected = after.length_N.double().mean() - before.length_N.double().mean()
    assert found["change"] == pytest.approx(expected.item())
    parts = [found[f"part/{name}"] for name in (*SIGNS, "mix")]
    assert sum(parts) == pytest.approx(expected.item(), abs=1e-9)


def step(positive: int, negative: int, share: float, groups: int = 30):
    """Groups of ten responses: this share is positive, with these lengths."""
    count = np.full(groups, 10 * share)
    return {
        "count/positive": count,
        "tokens/positive": count * positive,
        "count/negative": 10 - count,
        "tokens/negative": (10 - count) * negative,
        "count/zero": np.zeros(groups),
        "tokens/zero": np.zeros(groups),
    }


def test_a_change_of_one_sign_is_the_part_of_that_sign():
    found = drift({1: step(100, 100, 0.5), 2: step(100, 140, 0.5)}, np.random.default_rng(0))
    assert (found.first, found.last, found.num_groups) == ((1, 1), (2, 2), 30)
    assert found.found["change"].value == found.found["part/negative"].value == 20
    assert found.found["length/negative"].value == 40
    assert found.found["part/positive"].value == found.found["part/mix"].value == 0
    assert np.isnan(found.found["length/zero"].value)


def test_more_long_responses_are_the_part_of_the_mix():
    found = drift({1: step(100, 200, 0.8), 2: step(100, 200, 0.4)}, np.random.default_rng(0))
    assert found.found["change"].value == pytest.approx(40)
    assert found.found["part/mix"].value == pytest.approx(40)


def test_a_sign_that_only_one_half_has_changes_the_mix_alone():
    found = drift({1: step(100, 200, 1.0), 2: step(100, 200, 0.5)}, np.random.default_rng(0))
    assert found.found["part/mix"].value == pytest.approx(50)


def test_the_middle_step_of_an_odd_number_is_left_out():
    steps = {number: step(100, 100, 0.5) for number in (3, 4, 5, 6, 9)}
    found = drift(steps, np.random.default_rng(0))
    assert (found.first, found.last) == ((3, 4), (6, 9))
    assert drift({1: step(1, 1, 0.5)}, np.random.default_rng(0)) is None


def test_intervals_come_from_groups_of_both_halves():
    random = np.random.default_rng(0)
    half = {key: value * 1.0 for key, value in step(100, 100, 0.5, groups=200).items()}
    half["tokens/positive"] = half["tokens/positive"] * random.normal(1, 0.2, 200)
    later = {key: value.copy() for key, value in half.items()}
    later["tokens/positive"] = later["tokens/positive"] + 0.0
    found = drift({1: half, 2: later}, np.random.default_rng(1))
    value, low, high = found.found["change"]
    # A positive response has 100 +- 20, half of all: 10 per group, over 200 groups, twice.
    expected = 2 * 1.96 * 10 / np.sqrt(200) * np.sqrt(2)
    assert value == 0 and low < 0 < high
    assert high - low == pytest.approx(expected, rel=0.25)
