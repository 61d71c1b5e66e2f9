"""The weight column, on batches that TransferQueue only seems to hold."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta

from recipe import trainer
from recipe.aggregation import RULES
from recipe.columns import group_numbers, per_response, prompt_of, row_sums
from recipe.learned import LearnedScalar
from recipe.policy_loss import SLOPE_COLUMN, WEIGHT_COLUMN
from recipe.settings import AggregationSettings, ScalarSettings

LIMIT = 12
# Two mixed groups, one without variance, and a row of padding; the last of group b is truncated.
UIDS = ["a", "b", "a", "b", "c", "c", "pad"]
LENGTHS = [3, 4, 5, 12, 6, 8, 1]
SCORES = [1.0, 1.0, -1.0, -1.0, 0.3, 0.3, 0.0]
ADVANTAGES = [1.0, 1.0, -1.0, -1.0, 0.03, 0.03, 0.0]


def nested(rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


@pytest.fixture
def add_weights(monkeypatch):
    """Run the mixin on the batch; returns (weight_N, metrics)."""
    data = {
        "advantages": nested([[a] * n for a, n in zip(ADVANTAGES, LENGTHS, strict=True)]),
        "response_mask": nested(
            [[float(uid != "pad")] * n for uid, n in zip(UIDS, LENGTHS, strict=True)]
        ),
        "responses": nested([list(range(n)) for n in LENGTHS]),
        "rm_scores": nested([[0.0] * (n - 1) + [s] for s, n in zip(SCORES, LENGTHS, strict=True)]),
        "extra_fields": np.array(
            [{"reward_extra_info": {"acc": float(s > 0), "timeout": 1.0}} for s in SCORES]
        ),
    }
    put = {}

    def run(**given):
        monkeypatch.setattr(trainer.tq, "kv_batch_get", lambda *_, **__: data)
        monkeypatch.setattr(trainer.tq, "kv_batch_put", lambda *_, fields: put.update(fields))
        base = {"rule": "balanced", "constant_length": LIMIT}
        chosen = AggregationSettings(**base | given)
        mixin = SimpleNamespace(
            settings=chosen,
            scalar=chosen.scalar and LearnedScalar(chosen.scalar),
            config=OmegaConf.create(
                {
                    "algorithm": {"use_kl_in_reward": False},
                    "data": {"max_response_length": LIMIT},
                }
            ),
        )
        tags = [{"response_len": length} for length in LENGTHS]
        keys = [f"{uid}_{i}_0" for i, uid in enumerate(UIDS)]
        metrics = {}
        meta = KVBatchMeta(partition_id="train", keys=keys, tags=tags)
        trainer.AggregationMixin._add_weights(mixin, meta, metrics)
        assert set(put) == {WEIGHT_COLUMN} | ({SLOPE_COLUMN} if chosen.scalar else set())
        return put[WEIGHT_COLUMN], metrics | {SLOPE_COLUMN: put.get(SLOPE_COLUMN)}

    return run


def expected(weights, num_counted):
    return torch.tensor(weights) * len(UIDS) / num_counted


def test_padding_has_weight_zero_and_the_others_make_up_for_it(add_weights):
    weight_N, metrics = add_weights()
    torch.testing.assert_close(
        weight_N, expected([1 / 3, 1 / 4, 1 / 5, 1 / 12, 1 / 7, 1 / 7, 0], 6)
    )
    assert weight_N.shape == (len(UIDS),)
    assert metrics["aggregation/num_groups"] == 3


def test_a_group_of_equal_scores_has_no_sign_whatever_the_rounding(add_weights):
    """Their mean is rounded, so verl's advantages are not exactly 0."""
    metrics = add_weights()[1]
    assert metrics["aggregation/num_zero_groups"] == 1
    assert metrics["aggregation/num_positive"] == 2


def test_mask_truncated_leaves_them_out_of_weights_and_lengths_but_reports_them(add_weights):
    weight_N, metrics = add_weights(mask_truncated=True, rule="token")
    torch.testing.assert_close(weight_N, expected([1 / 4, 1 / 4, 1 / 4, 0, 1 / 7, 1 / 7, 0], 5))
    assert metrics["aggregation/truncated_negative"] == 1 / 2


def test_drop_zero_groups_leaves_them_out_of_the_number_of_responses(add_weights):
    weight_N, metrics = add_weights(drop_zero_groups=True)
    torch.testing.assert_close(weight_N, expected([1 / 3, 1 / 4, 1 / 5, 1 / 12, 0, 0, 0], 4))
    assert metrics["aggregation/num_groups"] == 2


SCALAR = ScalarSettings(start=0.5, spread=1 / 9, optimizer="sgd", lr=0.1)


def test_lambda_adds_the_slope_of_its_weights_for_all_that_counts(add_weights):
    weight_N, metrics = add_weights(rule="lambda", scalar=SCALAR)
    assert metrics["aggregation/scalar"] == 0.5
    higher = add_weights(rule="lambda", scalar=replace(SCALAR, start=0.5 + 1e-3))[0]
    torch.testing.assert_close(
        metrics[SLOPE_COLUMN], (higher - weight_N) / 1e-3, rtol=2e-3, atol=1e-4
    )
    assert metrics[SLOPE_COLUMN][-1] == 0


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"lambda"}))
def test_every_rule_weighs_all_that_counts(add_weights, rule):
    weight_N, _ = add_weights(rule=rule)
    assert (weight_N[:-1] > 0).all()


def test_lengths_and_advantages_come_from_trained_tokens_only():
    mask = nested([[0.0, 1.0, 1.0], [0.0]])
    length_N, advantage_N = per_response(mask, nested([[9.0, 2.0, 2.0], [7.0]]))
    assert length_N.tolist() == [2, 0]
    assert advantage_N.tolist() == [2.0, 0.0]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6), st.data())
def test_nested_columns_give_what_padded_ones_give(rows, data):
    value = st.floats(-2, 2, width=32)
    numbers = [data.draw(value) for _ in rows]
    mask = nested([[float(x) for x in row] for row in rows])
    length_N, advantage_N = per_response(
        mask, nested([[a] * len(row) for a, row in zip(numbers, rows, strict=True)])
    )
    assert length_N.tolist() == [sum(row) for row in rows]
    assert advantage_N.tolist() == [
        a if any(row) else 0.0 for a, row in zip(numbers, rows, strict=True)
    ]
    torch.testing.assert_close(row_sums(mask), mask.to_padded_tensor(0.0).sum(-1))


def test_the_prompt_is_the_key_without_sample_and_output():
    assert prompt_of("0b-4_1_12_0") == "0b-4_1"
    assert group_numbers(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


def test_a_run_waits_for_gpus_that_others_hold(monkeypatch, capsys):
    looks = iter([{}, {"GPU": 1}, {"GPU": 2}])
    monkeypatch.setattr(trainer, "WAIT_SECONDS", 0)
    monkeypatch.setattr(ray, "available_resources", lambda: next(looks))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2})
    trainer.wait_for_gpus(2)
    assert capsys.readouterr().out.count("needs 2 GPUs") == 2
    assert next(looks, None) is None


def test_a_cluster_that_is_too_small_is_left_to_verl_to_refuse(monkeypatch):
    monkeypatch.setattr(ray, "available_resources", dict)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1})
    trainer.wait_for_gpus(2)
