from statistics import mean, pstdev

import pytest
import torch
from batches import batches, fixed_batch
from hypothesis import given, settings

from recipe.aggregation import RULES
from recipe.diagnostics import by_verdict, diagnose


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


@settings(deadline=None)
@given(batches())
def test_the_sides_share_the_objective_equally_under_sequence_and_balanced(batch):
    """Binary rewards: a group's advantages sum to 0, and these rules keep each side's count."""
    found = diagnosed(batch)
    if (batch.advantage_N != 0).any():
        for name in ("sequence", "balanced"):
            assert found[f"aggregation/share_positive/{name}"] == pytest.approx(0.5)
    else:
        assert not any("share" in key for key in found)


def test_shares_of_every_rule_sum_to_one_and_the_chosen_one_is_named():
    found = diagnosed(fixed_batch(), chosen="token")
    for name in RULES:
        sides = [found[f"aggregation/share_{sign}/{name}"] for sign in ("positive", "negative")]
        assert sum(sides) == pytest.approx(1)
    assert found["aggregation/share_negative"] == found["aggregation/share_negative/token"]


def test_share_under_token_is_length_times_advantage_in_units_of_the_group():
    batch = fixed_batch()
    part = [column[:4] for column in batch]
    found = diagnose(*part, {"token": RULES["token"](*part)}, "token")
    assert found["aggregation/share_positive"] == pytest.approx((5 + 2) / (5 + 9 + 2 + 12))


def test_no_key_names_one_of_verls_reducers():
    keys = [*diagnosed(fixed_batch()), *verdicts(fixed_batch())]
    assert not [key for key in keys for word in ("max", "min", "sum", "total") if word in key]


def test_an_undefined_quantity_is_left_out():
    batch = fixed_batch()
    part = [column[8:] for column in batch]
    found = diagnose(*part, {"token": RULES["token"](*part)}, "token")
    assert "aggregation/length_positive" not in found
    assert "aggregation/length_gap" not in found


def verdicts(batch):
    return by_verdict(batch.length_N, batch.advantage_N, batch.advantage_N, batch.length_N >= 9)


def test_verdicts_leave_padding_out():
    length_N = torch.tensor([4, 8, 6, 0])
    score_N = torch.tensor([1.0, -1.0, 1.0, 0.0])
    found = by_verdict(length_N, score_N, score_N, length_N >= 8)
    assert found == {
        "reward/right": pytest.approx(2 / 3),
        "reward/length_right": 5.0,
        "reward/length_wrong": 8.0,
        "aggregation/truncated_positive": 0.0,
        "aggregation/truncated_negative": 1.0,
    }


def test_a_batch_of_padding_has_no_verdicts():
    nothing = torch.zeros(3)
    assert by_verdict(nothing, nothing, nothing, nothing > 0) == {}
