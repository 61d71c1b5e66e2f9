import math
import os
from statistics import mean, pstdev

import numpy as np
import pytest
import torch
from batches import Batch, batches, fixed_batch, token_columns
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.workers.config import FSDPActorConfig

from recipe.maths.diagnostics import by_verdict, common_prefix, diagnose, prefix_push
from recipe.maths.rules import RULES


def diagnosed(batch, chosen="balanced"):
    weights = {name: rule(*batch) for name, rule in RULES.items()}
    return diagnose(*batch, weights, chosen)


def test_counts_lengths_and_truncation_of_a_batch_worked_out_by_hand():
    found = diagnosed(fixed_batch())
    # Group 0 has +5 -9 +2 -12 and group 1 has +3 0:7 -7 -1, as (sign, length).
    expected = {
        "num_positive": 3,
        "num_negative": 4,
        "tokens_positive": 10,
        "tokens_negative": 29,
        "length_positive": 10 / 3,
        "length_negative": 29 / 4,
        "num_groups": 3,
        "num_zero_groups": 1,
        # (10.5 - 3.5) / 7 in group 0, (4 - 3) / 4.5 in group 1.
        "length_gap": (1 + 1 / 4.5) / 2,
        "length_variation": mean(
            pstdev(lengths) / mean(lengths)
            for lengths in ([5, 9, 2, 12], [3, 7, 7, 1], [4, 6, 8, 10])
        ),
    }
    for key, value in expected.items():
        assert found[f"aggregation/{key}"] == pytest.approx(value, rel=1e-5), key


@given(batches())
def test_the_sides_share_the_objective_equally_under_sequence_and_balanced(batch):
    """Binary rewards: a group's advantages sum to 0, and these rules keep each side's count."""
    found = diagnosed(batch)
    if (batch.advantage_N != 0).any():
        for name in ("sequence", "balanced"):
            assert found[f"aggregation/objective_share_positive/{name}"] == pytest.approx(0.5)
    else:
        assert not any("share" in key or "sign_length_coupling" in key for key in found)


def test_shares_of_every_rule_sum_to_one_and_the_chosen_one_is_named():
    found = diagnosed(fixed_batch(), chosen="token")
    for name in RULES:
        sides = [
            found[f"aggregation/objective_share_{sign}/{name}"] for sign in ("positive", "negative")
        ]
        assert sum(sides) == pytest.approx(1)
    assert (
        found["aggregation/objective_share_negative"]
        == found["aggregation/objective_share_negative/token"]
    )


def test_share_under_token_is_length_times_advantage_in_units_of_the_group():
    found = diagnosed(Batch(*(column[:4] for column in fixed_batch())), "token")
    assert found["aggregation/objective_share_positive"] == pytest.approx(
        (5 + 2) / (5 + 9 + 2 + 12)
    )


@given(batches())
def test_coupling_is_the_log_ratio_of_the_sides_relative_to_sequence(batch):
    found = diagnosed(batch)
    for name in RULES:
        positive = found.get(f"aggregation/objective_share_positive/{name}", 0.0)
        if 0 < positive < 1:
            # Binary rewards: the sides are equal under sequence.
            expected = math.log(positive / (1 - positive))
            assert found[f"aggregation/sign_length_coupling/{name}"] == pytest.approx(
                expected, abs=1e-9
            )


def test_coupling_is_relative_to_sequence_where_that_couples_too():
    """Advantages that do not cancel, as after responses were left out."""
    columns = [3, 9, 5, 7, 10], [1.0, 1.0, -0.5, -0.5, -0.2]
    length_N, advantage_N = torch.tensor(columns[0]), torch.tensor(columns[1]).double()
    found = diagnosed(Batch(length_N, advantage_N, length_N * 0))
    under_sequence = math.log(2 / 1.2)
    assert found["aggregation/sign_length_coupling/sequence"] == pytest.approx(0)
    token = math.log((3 + 9) / (2.5 + 3.5 + 2))
    assert found["aggregation/sign_length_coupling/token"] == pytest.approx(token - under_sequence)


def test_the_coupling_of_token_is_the_log_ratio_of_mean_lengths():
    """One group, binary rewards: each side's share is its count times its mean length."""
    batch = Batch(*(column[:4] for column in fixed_batch()))
    found = diagnosed(batch, "token")
    assert found["aggregation/sign_length_coupling"] == pytest.approx(math.log(3.5 / 10.5))


def test_effective_responses_count_those_that_share_alike():
    length_N = torch.tensor([1, 1, 8, 1])
    advantage_N = torch.tensor([1.0, -1.0, 0.0, 0.0]).double()
    found = diagnosed(Batch(length_N, advantage_N, torch.zeros(4, dtype=torch.long)))
    assert found["aggregation/effective_num_responses/sequence"] == pytest.approx(2)
    found = diagnosed(Batch(length_N, torch.tensor([1.0, -1, 1, -1]), length_N * 0))
    assert found["aggregation/effective_num_responses/sequence"] == pytest.approx(4)
    # Tokens 1, 1, 8, 1 share the objective: 11^2 / (1 + 1 + 64 + 1).
    assert found["aggregation/effective_num_responses/token"] == pytest.approx(121 / 67)


@given(batches(rewards=st.sampled_from([0.0, 0.5, 1.0])))
def test_the_expected_loss_is_that_of_verls_loss_at_ratio_one(batch):
    found = diagnosed(batch)
    columns = token_columns(batch) | {"loss_agg_mode": "token-sum"}
    columns["log_prob"] = columns["old_log_prob"]
    config = FSDPActorConfig(strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True)
    for name, rule in RULES.items():
        weighted = rule(*batch)[:, None] * columns["response_mask"] * batch.advantage_N[:, None]
        loss, _ = compute_policy_loss_vanilla(**columns | {"advantages": weighted}, config=config)
        expected = loss.item() / len(batch.length_N)
        assert found[f"aggregation/pg_loss_expected/{name}"] == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=12), st.data())
def test_the_common_prefix_of_a_group_is_that_of_its_texts(rows, data):
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    length_N = torch.tensor([len(row) for row in rows])
    token_T = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    begin_N = length_N.cumsum(0) - length_N
    found = common_prefix(token_T, begin_N, length_N, torch.tensor(groups)).tolist()
    for group in set(groups):
        texts = [
            "".join(map(str, row)) for row, of in zip(rows, groups, strict=True) if of == group
        ]
        assert found[group] == len(os.path.commonprefix(texts))  # noqa: RUF071


def test_a_long_common_prefix_is_found_over_many_blocks():
    row = torch.arange(3000)
    other = torch.cat([row[:2500], row[:500]])
    token_T = torch.cat([row, other])
    begin_N, length_N = torch.tensor([0, 3000]), torch.tensor([3000, 3000])
    assert common_prefix(token_T, begin_N, length_N, length_N * 0).tolist() == [2500]


@given(batches())
def test_the_prefix_push_of_a_rule_has_its_closed_form(batch):
    """Per group, binary rewards: 0 under token, (k A+ / G)(1/L+ - 1/L-) under balanced."""
    weights = {name: RULES[name](*batch) for name in ("token", "balanced")}
    push = {
        name: prefix_push(batch.advantage_N, batch.group_N, weight_N)
        for name, weight_N in weights.items()
    }
    for group in batch.group_N.unique():
        rows = batch.group_N == group
        length, advantage = batch.length_N[rows].double(), batch.advantage_N[rows]
        assert push["token"][group] == pytest.approx(0, abs=1e-12)
        if (advantage > 0).any():
            mass = advantage.clamp(min=0).sum() / rows.sum()
            sides = 1 / length[advantage > 0].mean() - 1 / length[advantage < 0].mean()
            assert push["balanced"][group] == pytest.approx((mass * sides).item())


def test_the_prefix_push_is_the_mean_over_groups_that_share_a_prefix_and_differ():
    batch = fixed_batch()
    weights = {name: rule(*batch) for name, rule in RULES.items()}
    found = diagnose(*batch, weights, "sequence", prefix_P=torch.tensor([2, 0, 5]))
    assert found["aggregation/prefix_length"] == pytest.approx(7 / 3)
    # Group 0 alone: lengths 5 9 2 12, advantages 1 -1 1 -1.
    expected = (1 / 5 - 1 / 9 + 1 / 2 - 1 / 12) / 4
    assert found["aggregation/prefix_push"] == pytest.approx(expected)


def test_the_spread_of_weights_is_in_units_of_those_of_token():
    found = diagnosed(fixed_batch())
    assert found["aggregation/weight_relative_std/token"] == pytest.approx(0, abs=1e-12)
    factors = [7 / x for x in (5, 9, 2, 12)] + [4.5 / x for x in (3, 7, 7, 1)]
    factors += [7 / x for x in (4, 6, 8, 10)]
    expected = pstdev(factors) / mean(factors)
    assert found["aggregation/weight_relative_std/sequence"] == pytest.approx(expected)


def test_percentiles_are_over_the_groups_that_define_the_quantity():
    found = diagnosed(fixed_batch())
    low, high = np.quantile([1, 1 / 4.5], [0.1, 0.9])
    assert found["aggregation/length_gap_p10"] == pytest.approx(low)
    assert found["aggregation/length_gap_p90"] == pytest.approx(high)


def test_no_key_names_one_of_verls_reducers():
    keys = [*diagnosed(fixed_batch()), *verdicts(fixed_batch())]
    assert not [key for key in keys for word in ("max", "min", "sum", "total") if word in key]


def test_an_undefined_quantity_is_left_out():
    found = diagnosed(Batch(*(column[8:] for column in fixed_batch())))
    assert "aggregation/length_positive" not in found
    assert "aggregation/length_gap" not in found


def verdicts(batch):
    return by_verdict(batch.length_N, batch.advantage_N > 0, batch.advantage_N, batch.length_N >= 9)


def test_verdicts_leave_padding_out():
    length_N = torch.tensor([4, 8, 6, 0])
    score_N = torch.tensor([1.0, -1.0, 1.0, 0.0])
    found = by_verdict(length_N, score_N > 0, score_N, length_N >= 8)
    assert found == {
        "reward/correct": pytest.approx(2 / 3),
        "reward/length_correct": 5.0,
        "reward/length_incorrect": 8.0,
        "aggregation/truncated_positive": 0.0,
        "aggregation/truncated_negative": 1.0,
    }


def test_a_batch_of_padding_has_no_verdicts():
    nothing = torch.zeros(3)
    assert by_verdict(nothing, nothing > 0, nothing, nothing > 0) == {}
