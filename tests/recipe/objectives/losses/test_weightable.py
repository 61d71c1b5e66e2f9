"""The three-part criterion, on verl's losses and on losses that fail just one part of it."""

from dataclasses import replace

import pytest
import torch
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss

from recipe.base.errors import UserError
from recipe.objectives.losses.weightable import default_config, failures, losses, refusal

ACCEPTED = {"vanilla", "dppo_tv", "dppo_kl", "gspo", "gpg", "cispo", "bypass_mode"}
ACCEPTED |= {"sapo_exact", "gmpo_exact"}


def test_the_losses_of_verl_that_take_every_rule():
    assert {name for name in losses() if not refusal(default_config(name))} == ACCEPTED


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sapo", "number of responses or tokens"),
        ("clip_cov", "one term per response"),
        ("kl_cov", "one term per response"),
        ("geo_mean", "one term per response"),
        ("dro", "one term per response"),
    ],
)
def test_the_others_are_refused_with_the_reason(name, reason):
    assert reason in refusal(default_config(name))


def test_a_loss_that_cannot_run_with_the_settings_is_refused_with_its_own_words():
    config = default_config("dro")
    config = replace(config, policy_loss=replace(config.policy_loss, dro_beta=None))
    assert "dro_beta must be a positive value" in refusal(config)


def test_a_loss_with_other_arguments_is_refused_without_a_traceback():
    register_policy_loss("under_test")(lambda log_prob, advantages: (log_prob, {}))
    try:
        assert "TypeError" in refusal(default_config("under_test"))
    finally:
        core_algos.POLICY_LOSS_REGISTRY.pop("under_test")


def test_bypass_mode_that_rejects_tokens_is_refused_because_of_its_mask():
    config = default_config("bypass_mode")
    correction = replace(
        config.policy_loss.rollout_correction, rollout_rs="token_k1", rollout_rs_threshold="0.5_2.0"
    )
    policy_loss = replace(config.policy_loss, rollout_correction=correction)
    assert "leaves tokens out" in refusal(replace(config, policy_loss=policy_loss))


def test_bypass_mode_that_normalises_over_the_micro_batch_is_refused():
    config = default_config("bypass_mode")
    correction = replace(
        config.policy_loss.rollout_correction,
        loss_type="reinforce",
        rollout_is="token",
        rollout_is_batch_normalize=True,
    )
    policy_loss = replace(config.policy_loss, rollout_correction=correction)
    assert list(failures(replace(config, policy_loss=policy_loss))) == ["weights"]


@pytest.fixture
def loss(request):
    """Register -log_prob * advantage with one thing changed."""

    def add(change):
        @register_policy_loss("under_test")
        def policy_loss(*, log_prob, advantages, response_mask, loss_agg_mode, config, **_):
            token_loss = change(-log_prob * advantages, log_prob, advantages, config)
            return agg_loss(
                token_loss, response_mask, loss_agg_mode, **config.global_batch_info
            ), {}

        return list(failures(default_config("under_test")))

    yield add
    core_algos.POLICY_LOSS_REGISTRY.pop("under_test", None)


def test_a_loss_that_is_right_passes(loss):
    assert loss(lambda token_loss, *_: token_loss) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        # Homogeneous in a scalar, but not row by row.
        (lambda x, log_prob, a, c: x * a.abs() / a.abs().amax(), ["weights"]),
        (lambda x, log_prob, a, c: x + 0.1 * log_prob, ["weights"]),
        (lambda x, log_prob, a, c: -log_prob * a.detach(), ["weights"]),
        (lambda x, log_prob, a, c: x / c.global_batch_info["global_batch_size"], ["counts"]),
        (lambda x, log_prob, a, c: x / c.global_batch_info["batch_num_tokens"], ["counts"]),
        (lambda x, log_prob, a, c: x / x.shape[-1], ["counts"]),
        (lambda x, log_prob, a, c: x / c.global_batch_info["dp_size"], ["ranks"]),
    ],
)
def test_each_part_of_the_criterion_can_fail_by_itself(loss, change, found):
    assert loss(change) == found


def test_the_criterion_leaves_the_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    refusal(default_config("clip_cov"))
    assert torch.rand(1) == expected


def test_a_run_with_a_refused_loss_says_which_are_accepted():
    from recipe.objectives.losses.weightable import check_loss

    check_loss(default_config("gspo"))
    with pytest.raises(
        UserError, match=r"loss_mode is sapo, .*Losses that can be are vanilla, dppo"
    ):
        check_loss(default_config("sapo"))
