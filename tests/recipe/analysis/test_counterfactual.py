import math

import numpy as np
import pytest
import torch
from batches import Batch, batches, fixed_batch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipe.analysis.bootstrap import REPLICATES, interval, resample
from recipe.analysis.counterfactual import analyse, estimate, group_sums
from recipe.maths.diagnostics import diagnose
from recipe.maths.rules import RULES

TRAINED = "token_batch"
NAMES = list(RULES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in the command: threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def analysed(*steps: Batch, trained=TRAINED, seed=0):
    """A run of these train batches."""
    columns = [[], [], [], []]
    for step, batch in enumerate(steps, start=1):
        offset = 1000 * step
        for column, values in zip(
            columns,
            (torch.full_like(batch.group_N, step), batch.group_N + offset, *batch[:2]),
            strict=True,
        ):
            column.append(values.numpy())
    return analyse(*map(np.concatenate, columns), RULES, trained, seed)


@settings(max_examples=30)
@given(batches(rewards=st.sampled_from([0.0, 0.5, 1.0])))
def test_the_values_of_a_step_are_those_that_the_trainer_logs(batch):
    weights = {name: rule(*batch) for name, rule in RULES.items()}
    logged = diagnose(*batch, weights, "token")
    found = analysed(batch).steps[1]
    for name in RULES:
        for key in ("objective_share_negative", "sign_length_coupling"):
            expected = logged.get(f"aggregation/{key}/{name}", math.nan)
            value = found[f"{key}/{name}"].value
            if not math.isnan(expected):
                assert value == pytest.approx(expected, abs=1e-9), key
            else:
                assert not math.isfinite(value)
        effective = logged.get(f"aggregation/effective_num_responses/{name}", math.nan)
        value = found[f"effective/{name}"].value * len(batch.length_N)
        assert value == pytest.approx(effective, nan_ok=True)
    for key in ("length_gap", "length_variation"):
        expected = logged.get(f"aggregation/{key}", math.nan)
        assert found[key].value == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30)
@given(batches())
def test_moved_is_half_the_sum_of_the_differences_of_shares(batch):
    assume((batch.advantage_N != 0).any())
    share = {}
    for name, rule in RULES.items():
        mass_N = rule(*batch) * batch.length_N * batch.advantage_N.abs()
        share[name] = mass_N / mass_N.sum()
    found = analysed(batch).run
    for name in RULES:
        expected = (share[name] - share[TRAINED]).abs().sum().item() / 2
        assert found[f"moved/{name}"].value == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30)
@given(batches())
def test_sequence_moves_nothing_but_within_a_sign_of_a_group(batch):
    """Binary rewards: `sequence` and `balanced` give each sign of a group the same mass."""
    assume((batch.advantage_N != 0).any())
    run = analysed(batch, trained="balanced").run
    assert run["moved_by_variation"].value == pytest.approx(run["moved/sequence"].value, abs=1e-9)


def test_what_gap_and_variation_move_worked_out_by_hand():
    # One group, +5 -9 +2 -12 as (sign, length).
    run = analysed(Batch(*(column[:4] for column in fixed_batch()))).run
    assert run["moved_by_gap"].value == pytest.approx(21 / 28 - 1 / 2)
    # Under balanced 5/14 of a half, 2/14; 9/42, 12/42; under sequence 1/4 each.
    moved = abs(5 / 14 - 1 / 4) + abs(9 / 42 - 1 / 4)
    assert run["moved_by_variation"].value == pytest.approx(moved)
    assert run["gap_over_variation"].value == pytest.approx(1 / 4 - moved)
    assert run["excess/balanced"].value == pytest.approx(1 / 4)


@settings(max_examples=20)
@given(batches(equal_lengths=True))
def test_no_rule_moves_anything_between_responses_of_the_same_length(batch):
    assume((batch.advantage_N != 0).any())
    run = analysed(batch).run
    for name in RULES:
        assert max(map(abs, run[f"moved/{name}"])) < 1e-9
    assert abs(run["gap_over_variation"].value) < 1e-9


def test_a_run_is_the_mean_of_its_steps_whatever_their_lengths():
    """`token_batch` and `constant` differ by a factor per step, so they agree."""
    short = fixed_batch()
    long = short._replace(length_N=100 * short.length_N.flip(0))
    found = analysed(short, long)
    for name in RULES:
        steps = [found.steps[step][f"objective_share_negative/{name}"].value for step in (1, 2)]
        assert found.run[f"objective_share_negative/{name}"].value == pytest.approx(np.mean(steps))
        assert found.deviation[f"objective_share_negative/{name}"] == pytest.approx(np.std(steps))
    for key in ("objective_share_negative", "sign_length_coupling", "effective"):
        assert found.run[f"{key}/constant"] == pytest.approx(found.run[f"{key}/token_batch"])


def test_empty_responses_are_in_no_objective():
    batch = fixed_batch()
    with_empty = Batch(*(torch.cat([column, column[:1]]) for column in batch))
    with_empty.length_N[-1] = 0
    found, expected = (list(analysed(x).run.values()) for x in (with_empty, batch))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_run_without_advantages_has_shares_of_nothing():
    batch = fixed_batch()
    run = analysed(batch._replace(advantage_N=0 * batch.advantage_N)).run
    assert math.isnan(run["objective_share_negative/token"].value)
    assert run["length_variation"].value > 0


def test_the_same_seed_gives_the_same_intervals_and_one_group_has_none():
    group_N = torch.arange(80) // 4
    advantage_N = torch.where(torch.arange(80) % 4 == 0, 1.5, -0.5).double()
    batch = Batch(1 + torch.arange(80) * 7 % 31, advantage_N, group_N)
    one, again, other = (analysed(batch, seed=seed).run for seed in (0, 0, 1))
    key = "objective_share_negative/token_batch"
    assert one[key] == again[key] != other[key]
    single = Batch(*(column[:4] for column in fixed_batch()))
    found = analysed(single).run[key]
    assert found.value == pytest.approx(0.75) and math.isnan(found.low) and math.isnan(found.high)


def test_resampled_sums_are_those_of_as_many_groups():
    table_PK = np.stack([np.ones(50), np.arange(50.0)], axis=-1)
    total_BK = resample(table_PK, np.random.default_rng(0), replicates=4000)
    assert (total_BK[:, 0] == 50).all()
    assert total_BK[:, 1].mean() == pytest.approx(50 * 24.5, rel=0.01)
    # The variance of a sum of 50 draws.
    assert total_BK[:, 1].std() == pytest.approx(math.sqrt(50 * np.var(np.arange(50))), rel=0.05)


def test_a_resample_in_parts_is_one_of_the_same_size(monkeypatch):
    monkeypatch.setattr("recipe.analysis.bootstrap.DRAWN_AT_ONCE", 70)
    assert resample(np.ones((30, 2)), np.random.default_rng(0)).shape == (REPLICATES, 2)


def test_an_interval_leaves_out_what_is_undefined():
    value_B = np.append(np.arange(1001.0), [np.nan] * 500)
    assert interval(value_B) == (25, 975)
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_intervals_cover_what_a_run_without_end_would_give():
    """95 of 100 should; groups of known lengths: right responses half as long as wrong ones."""
    random = np.random.default_rng(0)
    num_groups, size, trials = 48, 6, 200
    truth = simulated(random, 40_000, size)
    keys = (
        "objective_share_negative/token",
        "excess/balanced",
        "length_gap",
        "gap_over_variation",
        "moved/sequence",
        "effective/token",
    )
    expected = point_values(truth)
    covered = dict.fromkeys(keys, 0)
    for _ in range(trials):
        found = estimated(simulated(random, num_groups, size), random)
        for key in keys:
            covered[key] += found[key].low <= expected[key] <= found[key].high
    for key, count in covered.items():
        # Three standard errors below 95%, and what 48 groups cost a percentile interval.
        assert count / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials) - 0.02, (key, count)


def simulated(random, num_groups, size) -> dict[str, np.ndarray]:
    """Sums of random groups: binary scores, log-normal lengths, negative ones longer."""
    score = random.random((num_groups, size)) < 0.4
    length = np.ceil(np.exp(random.normal(5 + 0.7 * ~score, 0.4)))
    batch = Batch(
        torch.from_numpy(length.ravel()),
        torch.from_numpy((score - score.mean(1, keepdims=True)).ravel()),
        torch.arange(num_groups).repeat_interleave(size),
    )
    sums = group_sums(*batch, RULES, TRAINED)
    return {key: value_P.numpy() for key, value_P in sums.items()}


def estimated(sums, random):
    return estimate(sums, NAMES, TRAINED, random)


def point_values(sums) -> dict[str, float]:
    """Statistics of all groups, without the cost of intervals."""
    whole = {key: value_P.sum(keepdims=True) for key, value_P in sums.items()}
    return {key: found.value for key, found in estimate(whole, NAMES, TRAINED, None).items()}


def test_signal_over_noise_is_what_the_theory_says_of_one_group():
    """Lengths 3 and 5 against 8 and 12: R of docs/theory.md with p = 1/2 and v-/v+ = 10 / 4."""
    length, advantage = torch.tensor([3, 5, 8, 12]), torch.tensor([0.5, 0.5, -0.5, -0.5])
    found = analysed(Batch(length, advantage.double(), torch.zeros(4, dtype=torch.long)))
    best = (0.5 + 0.5 / 2.5) * (0.5 + 0.5 * 2.5)
    assert found.run["signal_over_noise/balanced"].value == pytest.approx(best)
    assert found.run["signal_over_noise/constant"].value == pytest.approx(1)
