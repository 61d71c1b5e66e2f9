import math

import pytest
import torch
from batches import Batch, fixed_batch, token_columns
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric
from verl.workers.config import FSDPActorConfig, PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from recipe.maths.rules import RULES, value_and_slope
from recipe.objectives.losses.weighted import (
    MICRO_COLUMN,
    MICRO_SIZE_COLUMN,
    SLOPE_COLUMN,
    SLOPE_METRIC,
    WEIGHT_COLUMN,
    weighted_ppo_loss,
)

PROMPT = 3


def actor_config(**settings):
    return FSDPActorConfig(
        strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, clip_ratio_high=0.28, **settings
    )


def nested(padded_NT, length_N):
    rows = [row[:length] for row, length in zip(padded_NT, length_N.tolist(), strict=True)]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def micro_batch(batch: Batch, weight_N, rows, slope_N=None, **facts):
    """What the engine hands to a loss: nested columns of some rows, and facts of the batch."""
    length_N = batch.length_N[rows]
    padded = {name: column[rows] for name, column in token_columns(batch).items()}
    responses = nested(torch.zeros_like(padded["log_prob"]).long(), length_N)
    data = TensorDict(
        {
            "prompts": nested(torch.zeros(len(length_N), PROMPT).long(), length_N * 0 + PROMPT),
            "responses": responses,
            "response_mask": nested(padded["response_mask"], length_N),
            "old_log_probs": nested(padded["old_log_prob"], length_N),
            "ref_log_prob": nested(padded["old_log_prob"] - 0.1, length_N),
            "advantages": nested(padded["advantages"], length_N),
            WEIGHT_COLUMN: weight_N[rows],
        },
        batch_size=len(length_N),
    )
    if slope_N is not None:
        data[SLOPE_COLUMN] = slope_N[rows]
    facts = {"dp_size": 1, "batch_num_tokens": 74, "global_batch_size": 12} | facts
    tu.assign_non_tensor(data, **facts)
    # Model outputs cover prompt and response, shifted left by one token.
    full = torch.zeros(len(length_N), PROMPT + padded["log_prob"].shape[1]).double()
    full[:, PROMPT - 1 : -1] = padded["log_prob"]
    full.requires_grad_()
    output = {"log_probs": nested(full, length_N + PROMPT)}
    return data, output, full


def loss_and_gradient(batch, weight_N, rows, config, loss=weighted_ppo_loss, **facts):
    data, output, leaf = micro_batch(batch, weight_N, rows, **facts)
    value, metrics = loss(config, output, data)
    value.backward()
    return value.detach(), leaf.grad, metrics


@pytest.mark.parametrize("name", sorted(RULES))
def test_loss_equals_verl_vanilla_on_weighted_advantages_with_token_sum(name):
    batch = fixed_batch()
    weight_N = RULES[name](*batch)
    config = actor_config()
    found, gradient, _ = loss_and_gradient(batch, weight_N, slice(None), config)

    columns = token_columns(batch)
    columns["log_prob"].requires_grad_()
    columns["advantages"] = weight_N[:, None] * columns["advantages"]
    expected, _ = compute_policy_loss_vanilla(loss_agg_mode="token-sum", config=config, **columns)
    (expected / 12).backward()
    torch.testing.assert_close(found, expected.detach() / 12, rtol=1e-12, atol=0)
    expected_gradient = columns["log_prob"].grad * columns["response_mask"]
    torch.testing.assert_close(gradient[:, PROMPT - 1 : -1], expected_gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(RULES))
def test_parts_over_ranks_and_micro_batches_add_up_to_the_whole(name):
    """FSDP averages over ranks, hence the factor dp_size in each part."""
    batch = fixed_batch()
    weight_N = RULES[name](*batch)
    config = actor_config()
    whole, gradient, _ = loss_and_gradient(batch, weight_N, slice(None), config)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for rank in order.split(6):
        for rows in rank.split([1, 3, 2]):
            part, part_gradient, _ = loss_and_gradient(batch, weight_N, rows, config, dp_size=2)
            total += part / 2
            width = part_gradient.shape[1]
            torch.testing.assert_close(part_gradient / 2, gradient[rows][:, :width])
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 4)])
def test_clip_excess_is_the_mean_way_past_the_bound_of_the_sign(rows):
    batch = fixed_batch()
    weight_N = RULES["balanced"](*batch)
    _, _, metrics = loss_and_gradient(batch, weight_N, rows, actor_config())
    columns = {key: column[rows] for key, column in token_columns(batch).items()}
    past = []
    for token in columns["response_mask"].nonzero().tolist():
        row, t = token
        ratio = math.exp(columns["log_prob"][row, t] - columns["old_log_prob"][row, t])
        advantage = columns["advantages"][row, t]
        beyond = ratio - 1.28 if advantage > 0 else 0.8 - ratio if advantage < 0 else 0.0
        past.append(max(0.0, beyond))
    assert 0 < sum(past)
    found = metrics["actor/ratio_clip_excess"].aggregate()
    assert found == pytest.approx(sum(past) / len(past), rel=1e-6)


def test_entropy_and_kl_terms_stay_verls_token_mean():
    """With all advantages 0 only they are left, and equal verl's own loss."""
    batch = fixed_batch()._replace(advantage_N=torch.zeros(12).double())
    config = actor_config(use_kl_loss=True, kl_loss_coef=0.1)
    found, gradient, metrics = loss_and_gradient(
        batch, RULES["balanced"](*batch), slice(None), config
    )
    expected, verl_gradient, _ = loss_and_gradient(
        batch, torch.ones(12), slice(None), config, loss=ppo_loss
    )
    assert found != 0
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, verl_gradient, rtol=1e-12, atol=0)
    assert {"actor/pg_loss", "actor/ppo_kl", "kl_loss"} <= metrics.keys()


def scalar_reference(config, value=0.5):
    """Autograd through one plain loss over the whole batch, with weights that are a function."""
    batch = fixed_batch()
    columns = token_columns(batch)
    scalar = torch.tensor(value, dtype=torch.double, requires_grad=True)
    weight_N = RULES["lambda"](*batch, exponent=scalar)
    advantages = weight_N[:, None] * columns["advantages"]
    loss_fn = get_policy_loss_fn(config.policy_loss.loss_mode)
    loss, _ = loss_fn(
        **columns | {"advantages": advantages}, loss_agg_mode="token-sum", config=config
    )
    (loss / 12).backward()
    return scalar.grad


@pytest.mark.parametrize("name", ["vanilla", "dppo_tv", "dppo_kl", "gspo", "gpg", "cispo"])
def test_the_slope_by_a_learned_scalar_is_that_of_autograd_under_any_split(name):
    """Summed over micro-batches and averaged over ranks, as verl does with the metric."""
    batch = fixed_batch()
    config = actor_config(policy_loss=PolicyLossConfig(loss_mode=name))
    weight_N, slope_N = value_and_slope(RULES["lambda"], 0.5, *batch)
    expected = scalar_reference(config)
    assert abs(expected) > 1e-4
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    ranks = [
        [
            loss_and_gradient(batch, weight_N, rows, config, slope_N=slope_N, dp_size=2)[2][
                SLOPE_METRIC
            ]
            for rows in rank.split([1, 3, 2])
        ]
        for rank in order.split(6)
    ]
    for first, *others in ranks:
        for part in others:
            first.extend(part)
    found = Metric.aggregate_dp([rank[0] for rank in ranks])
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_the_slope_column_changes_neither_loss_nor_gradient():
    """With entropy and KL terms too, which do not depend on the scalar."""
    batch = fixed_batch()
    config = actor_config(use_kl_loss=True, kl_loss_coef=0.1)
    weight_N, slope_N = value_and_slope(RULES["lambda"], 0.5, *batch)
    loss, gradient, _ = loss_and_gradient(batch, weight_N, slice(None), config)
    with_slope = loss_and_gradient(batch, weight_N, slice(None), config, slope_N=slope_N)
    assert torch.equal(with_slope[0], loss)
    assert torch.equal(with_slope[1], gradient)
    expected = scalar_reference(actor_config())
    assert with_slope[2][SLOPE_METRIC].aggregate() == pytest.approx(expected.item(), rel=1e-6)


def test_the_micro_batch_keeps_its_advantages():
    """With several epochs the same rows come again."""
    batch = fixed_batch()
    data, output, _ = micro_batch(batch, RULES["token"](*batch), slice(None))
    before = data["advantages"].values().clone()
    weighted_ppo_loss(actor_config(), output, data)
    assert torch.equal(data["advantages"].values(), before)


def test_padded_advantages_are_refused():
    batch = fixed_batch()
    data, output, _ = micro_batch(batch, RULES["token"](*batch), slice(None))
    data["advantages"] = data["advantages"].to_padded_tensor(0.0)
    with pytest.raises(TypeError, match="advantages is padded"):
        weighted_ppo_loss(actor_config(), output, data)


@pytest.mark.parametrize(
    ("micro", "sizes"), [([0, 0, 1], [3, 3, 3]), ([1, 1, 1], [4, 4, 4]), ([0, 1, 1], [1, 2, 2])]
)
def test_a_micro_batch_that_was_not_weighted_as_one_is_refused(micro, sizes):
    batch = fixed_batch()
    data, output, _ = micro_batch(batch, RULES["token_micro"](*batch), slice(0, 3))
    data[MICRO_COLUMN], data[MICRO_SIZE_COLUMN] = torch.tensor([[2, 2, 2], [3, 3, 3]])
    weighted_ppo_loss(actor_config(), output, data)
    data[MICRO_COLUMN], data[MICRO_SIZE_COLUMN] = torch.tensor([micro, sizes])
    with pytest.raises(RuntimeError, match="a micro-batch of 3 responses, which were weighted"):
        weighted_ppo_loss(actor_config(), output, data)
