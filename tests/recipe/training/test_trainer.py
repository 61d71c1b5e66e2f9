"""What the driver adds to a batch, on one that TransferQueue only seems to hold."""

import math
from types import SimpleNamespace

import driver
import pytest
import ray
import torch
from driver import LIMIT, ROWS, nested
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recipe.maths.advantages.gdpo import GdpoSettings, gdpo_advantages
from recipe.maths.columns import group_numbers, per_response, prompt_of, row_sums
from recipe.maths.rules import MICRO, RULES
from recipe.objectives.base import ON_POLICY
from recipe.objectives.disco import CORRECT_COLUMN, GROUP_COLUMN
from recipe.objectives.policy_gradient import SLOPE_COLUMN, WEIGHT_COLUMN
from recipe.training import trainer
from recipe.training.halves import LR_FACTOR

METHODS = {
    "ha_dw": {
        "name": "ha_dw",
        "ha_dw": {"anchor": "window", "scale": 1.5, "window": 3, "rate": 1.0, "reward": "correct"},
    },
    "gdpo": {
        "name": "gdpo",
        "gdpo": {
            "rewards": {"correctness": 1.0, "length": 0.5, "format": 1.0},
            "statistics": "token",
            "epsilon": 1e-4,
            "length_limit": 5,
        },
    },
    "gdpo_response": {
        "name": "gdpo",
        "gdpo": {
            "rewards": {"correctness": 0.7, "length": 0.3},
            "statistics": "response",
            "epsilon": 1e-4,
            "length_limit": 5,
        },
    },
    "disco": {
        "name": "disco_logl",
        "disco": {
            "score": "log_likelihood",
            "tau": 1.0,
            "kl_limit": 0,
            "kl_penalty": 1,
            "kl": "k1",
        },
    },
}


JUDGE = {"kind": None, "url": "", "model": None}
JUDGE |= {"timeout": 1.0, "retries": 0, "at_once": 1, "max_tokens": 1}


@pytest.fixture
def add_columns(monkeypatch):
    """Run the driver's part of a step under some settings."""

    def run(advantage="grpo", objective="policy_gradient", **aggregation):
        settings = {"rule": "balanced", "constant_length": LIMIT}
        chosen = {
            "experiment_name": "test",
            "seed": 0,
            "output_root": "outputs",
            "data_root": "data",
            "poll_interval": 2.0,
            "leave_out_solved": None,
            "follow_snr": None,
            "step_judge": JUDGE,
            "reward": {"custom_reward_function": {"path": "another"}},
            "algorithm": {"use_kl_in_reward": False},
            "data": {"max_response_length": LIMIT},
            "advantage": METHODS.get(advantage, {"name": advantage}),
            "objective": METHODS.get(objective, {"name": objective}),
            "aggregation": settings | aggregation,
        }
        return driver.add_columns(monkeypatch, OmegaConf.create(chosen))

    return run


@pytest.fixture
def add_weights(add_columns):
    """The weights of a policy gradient, and the metrics with the slope."""

    def run(**settings):
        put, metrics = add_columns(**settings)
        assert set(put) == {WEIGHT_COLUMN} | ({SLOPE_COLUMN} if "scalar" in settings else set())
        return put[WEIGHT_COLUMN], metrics | {SLOPE_COLUMN: put.get(SLOPE_COLUMN)}

    return run


def expected(weights, num_counted):
    return torch.tensor(weights) * len(ROWS.uids) / num_counted


def test_padding_has_weight_zero_and_the_others_make_up_for_it(add_weights):
    weight_N, metrics = add_weights()
    torch.testing.assert_close(
        weight_N, expected([1 / 3, 1 / 4, 1 / 5, 1 / 12, 1 / 7, 1 / 7, 0], 6)
    )
    assert weight_N.shape == (len(ROWS.uids),)
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


SCALAR = {"start": 0.5, "spread": 1 / 9, "optimizer": "sgd", "lr": 0.1}


def test_lambda_adds_the_slope_of_its_weights_for_all_that_counts(add_weights):
    weight_N, metrics = add_weights(rule="lambda", scalar=SCALAR)
    assert metrics["aggregation/lambda_scalar"] == 0.5
    higher = add_weights(rule="lambda", scalar=SCALAR | {"start": 0.5 + 1e-3})[0]
    torch.testing.assert_close(
        metrics[SLOPE_COLUMN], (higher - weight_N) / 1e-3, rtol=2e-3, atol=1e-4
    )
    assert metrics[SLOPE_COLUMN][-1] == 0


def test_ha_dw_weighs_the_advantages_that_the_weights_are_made_of(add_columns):
    """Groups a and b are half right, c is right; the first batch is its own anchor, 4/6."""
    put, metrics = add_columns("ha_dw")
    up, down = 1.5 * math.exp(4 / 6 - 0.5), 1.5 * math.exp(0.5 - 4 / 6)
    found = put["advantages"].to_padded_tensor(0.0)[:, 0]
    assert found.tolist() == pytest.approx([up, up, -down, -down, 0, 0, 0], rel=1e-6)
    assert put["returns"] is put["advantages"]
    assert metrics["advantage/anchor"] == pytest.approx(4 / 6)
    torch.testing.assert_close(put[WEIGHT_COLUMN], add_columns()[0][WEIGHT_COLUMN])
    shares = [metrics[f"aggregation/objective_share_{sign}"] for sign in ("positive", "negative")]
    assert shares == pytest.approx([up / (up + down), down / (up + down)])


def test_gdpo_takes_the_place_of_verls_advantages_on_trained_tokens(add_columns):
    put, metrics = add_columns("gdpo")
    settings = GdpoSettings(**METHODS["gdpo"]["gdpo"])
    given = {
        "correctness": torch.tensor([1.0, 1, 0, 0, 1, 1]),
        "length": torch.tensor([1.0, 1, 1, 0, 0, 0]),
        "format": torch.ones(6),
    }
    expected = gdpo_advantages(
        given, torch.tensor(ROWS.lengths[:6]), torch.tensor([0, 1, 0, 1, 2, 2]), settings
    )
    for row, length in enumerate(ROWS.lengths[:6]):
        tokens = put["advantages"][row]
        assert tokens.tolist() == pytest.approx([expected[row].item()] * length, rel=1e-6)
    assert put["advantages"][6].tolist() == [0.0]
    assert metrics["advantage/reward_length"] == 0.5
    # The token mean shifts the group without variance off 0, so it has a sign.
    assert metrics["aggregation/num_zero_groups"] == 0


def test_truncation_by_sign_is_by_the_advantages_that_train(add_columns):
    """GDPO gives the truncated response, wrong but in form, the sign of all its rewards."""
    for advantage in ("grpo", "gdpo"):
        put, metrics = add_columns(advantage)
        positive = put["advantages"][3][0] > 0 if "advantages" in put else False
        key = "positive" if positive else "negative"
        assert metrics[f"aggregation/truncated_{key}"] > 0


def test_gdpo_knows_groups_without_variance_so_that_they_can_be_dropped(add_columns):
    put, metrics = add_columns("gdpo_response", drop_zero_groups=True)
    assert metrics["aggregation/num_groups"] == 2
    assert put[WEIGHT_COLUMN][4:].tolist() == [0, 0, 0]
    assert (put[WEIGHT_COLUMN][:4] > 0).all()


class Base:
    """verl's part, of which only the order and what is sent matter."""

    def _balance_batch(self, batch, metrics):
        return batch

    def _update_actor(self, batch, metrics):
        self.sent = dict(batch.extra_info)
        metrics |= {"actor/gradient_signal": 1.0, "actor/gradient_square": 4.0}
        return batch


@pytest.fixture
def two_ranks(monkeypatch, composed):
    """The mixin over `Base`, on two ranks, with mini-batches of two prompts."""
    for name in ("_balance_batch", "_update_actor"):
        monkeypatch.setattr(trainer.PPOTrainer, name, getattr(Base, name))

    def run(*overrides):
        sizes = ("actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.rollout.n=2")
        mixin = driver.Bare(composed(*sizes, *overrides))
        ranks = SimpleNamespace(_dispatch_info={"actor": [0, 0, 1, 1]})
        mixin.actor_rollout_wg = ranks
        return mixin

    return run


DISCO = "objective=disco_logl"


def test_under_disco_every_mini_batch_of_both_ranks_holds_whole_groups(two_ranks):
    """Four GPUs, in pairs that share a sequence, are two ranks."""
    rows = driver.Rows(list("aabcbdcd"), [9, 1, 5, 3, 2, 7, 1, 4], [0.0] * 8, [0.0] * 8)
    metrics = {}
    batch = two_ranks(DISCO)._balance_batch(driver.meta(rows), metrics)
    groups = [key[0] for key in batch.keys]
    for mini_batch in (0, 1):
        held = [groups[rank * 4 + mini_batch * 2 + i] for rank in (0, 1) for i in (0, 1)]
        assert all(held.count(group) == 2 for group in held)
    tokens = [sum(tag["seq_len"] for tag in batch.tags[place : place + 4]) for place in (0, 4)]
    assert metrics == {
        "global_seqlen/balanced_min": min(tokens),
        "global_seqlen/balanced_max": max(tokens),
    }


def test_under_disco_the_actor_is_told_whether_a_batch_is_on_policy(two_ranks):
    rows = driver.Rows(list("aabb"), [1] * 4, [0.0] * 4, [0.0] * 4)
    for overrides, expected in (((), True), (("actor_rollout_ref.actor.ppo_epochs=2",), False)):
        mixin = two_ranks(DISCO, *overrides)
        mixin._update_actor(driver.meta(rows), {})
        assert mixin.sent == {ON_POLICY: expected}


def test_under_follow_snr_every_half_of_a_mini_batch_holds_whole_groups(two_ranks):
    """One mini-batch of two groups on two ranks: each rank's first rows are of one group."""
    rows = driver.Rows(list("abab"), [1] * 4, [0.0] * 4, [0.0] * 4)
    batch = two_ranks("follow_snr=0.5")._balance_batch(driver.meta(rows), {})
    groups = [key[0] for key in batch.keys]
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_under_follow_snr_the_actor_is_told_the_factor_of_earlier_batches(two_ranks, tmp_path):
    mixin, sent = two_ranks("follow_snr=0.5"), []
    for _ in range(2):
        mixin._update_actor(driver.meta(driver.ROWS), {})
        sent.append(mixin.sent[LR_FACTOR])
    assert sent == [1.0, 0.25]
    assert mixin.signal in mixin._memories()


def test_disco_gets_groups_and_verdicts_and_no_weights(add_columns):
    put, metrics = add_columns(objective="disco", advantage="none", rule=None)
    assert set(put) == {GROUP_COLUMN, CORRECT_COLUMN}
    assert put[GROUP_COLUMN].tolist() == [0, 1, 0, 1, 2, 2, -1]
    assert put[CORRECT_COLUMN].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert "aggregation/objective_share_negative/token" in metrics
    assert "aggregation/objective_share_negative" not in metrics


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"lambda", MICRO}))
def test_every_rule_weighs_all_that_counts(add_weights, rule):
    weight_N, _ = add_weights(rule=rule)
    assert (weight_N[:-1] > 0).all()


def test_lengths_and_advantages_come_from_trained_tokens_only():
    mask = nested([[0.0, 1.0, 1.0], [0.0]])
    length_N, advantage_N = per_response(mask, nested([[9.0, 2.0, 2.0], [7.0]]))
    assert length_N.tolist() == [2, 0]
    assert advantage_N.tolist() == [2.0, 0.0]


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
    assert capsys.readouterr().out.count("2 needed") == 2
    assert next(looks, None) is None


@pytest.mark.parametrize(
    ("cluster", "need"), [("cpu", 3 + 1 + 2), ("gpu1", 3 + 1 + 2), ("gpu8x2", 3 * 16 + 8 + 2)]
)
def test_a_cluster_with_fewer_cpus_than_the_actors_hold_is_refused(
    cluster, need, composed, monkeypatch
):
    config = composed(f"cluster={cluster}")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": need})
    trainer.refuse_few_cpus(config)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": need - 1})
    with pytest.raises(RuntimeError, match=f"Ray has {need - 1} CPUs, but the run needs {need}: 3"):
        trainer.refuse_few_cpus(config)


def test_a_cluster_that_is_too_small_is_left_to_verl_to_refuse(monkeypatch):
    monkeypatch.setattr(ray, "available_resources", dict)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1})
    trainer.wait_for_gpus(2)
