"""Our losses, off-policy, beside references written token by token from their papers."""

import math
from dataclasses import replace

import pytest
import torch
from verl.trainer.ppo.core_algos import get_policy_loss_fn

from recipe.objectives.losses.weightable import (
    COUNTS,
    default_config,
    evaluate,
    example,
    refusal,
)

LOSSES = ("sapo_exact", "gmpo_exact")


def config_of(name: str):
    return replace(default_config(name), clip_ratio_low=0.3, clip_ratio_high=0.4)


def sapo_token(ratio, advantage, config):
    tau = config.tau_pos if advantage > 0 else config.tau_neg
    return -4 / tau / (1 + math.exp(-tau * (ratio - 1))) * advantage


def gmpo_response(log_ratios, advantage):
    if advantage > 0:
        kept = [min(x, 0.4) for x in log_ratios]
    else:
        kept = [max(x, -0.3) for x in log_ratios]
    return -advantage * math.exp(sum(kept) / len(kept))


def references(name, columns, config):
    """The loss of every response, summed over its tokens."""
    log_ratio = columns["log_prob"] - columns["old_log_prob"]
    found = []
    for row, mask in enumerate(columns["response_mask"]):
        own = log_ratio[row][mask].tolist()
        advantage = columns["advantages"][row, 0].item()
        if name == "sapo_exact":
            found.append(sum(sapo_token(math.exp(x), advantage, config) for x in own))
        else:
            found.append(len(own) * gmpo_response(own, advantage))
    return found


def columns_without_rollout_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        columns, weight_N = example()
    return columns | {"rollout_is_weights": None}, weight_N


@pytest.mark.parametrize("name", LOSSES)
def test_off_policy_the_weighted_sum_over_responses_is_that_of_the_paper(name):
    columns, weight_N = columns_without_rollout_weights()
    config = config_of(name)
    loss, _, slope_N = evaluate(config, columns, weight_N)
    expected = torch.tensor(references(name, columns, config)).double()
    torch.testing.assert_close(slope_N, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(loss, weight_N @ expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_finite_differences(name):
    columns, weight_N = columns_without_rollout_weights()
    config = config_of(name)
    _, gradient, _ = evaluate(config, columns, weight_N)
    for row, token in ((0, 0), (3, 1), (7, 5), (8, 2)):
        found = []
        for change in (1e-6, -1e-6):
            moved = columns["log_prob"].clone()
            moved[row, token] += change
            found.append(evaluate(config, columns | {"log_prob": moved}, weight_N)[0])
        slope = ((found[0] - found[1]) / 2e-6).item()
        assert gradient[row, token].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_off_policy_it_differs_from_its_relatives_and_on_policy_it_does_not(name):
    columns, weight_N = columns_without_rollout_weights()
    others = ["vanilla", "gspo", *LOSSES]
    off = {one: evaluate(config_of(one), columns, weight_N)[1] for one in others}
    on = columns | {"log_prob": columns["old_log_prob"]}
    at_one = {one: evaluate(config_of(one), on, weight_N)[1] for one in others}
    for one in set(others) - {name}:
        assert (off[name] - off[one]).norm() > 0.05 * off[name].norm(), one
        torch.testing.assert_close(at_one[name], at_one[one], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "theirs"), [("sapo_exact", "sapo"), ("gmpo_exact", "geo_mean")])
def test_under_sequence_in_one_micro_batch_it_is_that_of_verl(name, theirs):
    columns, _ = columns_without_rollout_weights()
    weight_N = 1.0 / columns["response_mask"].sum(-1)
    config = config_of(name)
    loss, _, _ = evaluate(config, columns, weight_N)
    config = replace(config, global_batch_info={**COUNTS, "loss_scale_factor": None})
    expected, _ = get_policy_loss_fn(theirs)(**columns, loss_agg_mode="", config=config)
    assert (loss / len(weight_N)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_rollout_weights_multiply_tokens_under_sapo_and_responses_under_gmpo():
    columns, weight_N = columns_without_rollout_weights()
    for name in LOSSES:
        config = config_of(name)
        plain = evaluate(config, columns, weight_N)[2]
        weights = torch.full_like(columns["log_prob"], 0.5)
        halved = evaluate(config, columns | {"rollout_is_weights": weights}, weight_N)[2]
        torch.testing.assert_close(halved, plain / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_it_takes_every_rule(name):
    assert refusal(config_of(name)) is None
