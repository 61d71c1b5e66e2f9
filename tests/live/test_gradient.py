"""The gradient does not depend on how a batch is split: on verl's FSDP2 engine, in Ray workers."""

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from gradient_stage import (
    CPU,
    FSDP1,
    NUM_PROMPTS,
    RANKS,
    ROWS,
    reference_gradient,
    relative,
    response_log_prob,
    response_loss,
    update,
    update_with,
    weights,
)
from verl.utils import tensordict_utils as tu

from recipe.maths.bapo import BapoSettings
from recipe.maths.disco import DiscoSettings
from recipe.maths.rules import MICRO, RULES, over_all_rows, value_and_slope
from recipe.objectives.base import ON_POLICY
from recipe.objectives.losses.bapo import BapoLoss
from recipe.objectives.losses.disco import CORRECT_COLUMN, GROUP_COLUMN, DiscoLoss
from recipe.objectives.losses.weightable import default_config, losses, refusal
from recipe.objectives.losses.weighted import SLOPE_METRIC, weighted_ppo_loss
from recipe.objectives.policy_gradient import FACTOR_COLUMN, WEIGHT_COLUMN, micro_columns
from recipe.training import packing
from recipe.training.halves import LR_FACTOR, SIGNAL, SQUARE

pytest_plugins = ["gradient_stage"]
# Also part of `make gpu-smoke`, where there is one GPU or more.
pytestmark = pytest.mark.live if CPU else pytest.mark.gpu


def test_gradients_of_two_mini_batches_add_up_at_fixed_parameters(workers, batch):
    """Weights belong to whole groups, so it does not matter which rows share an update."""
    data, facts, _, _ = batch
    weight_N = weights("balanced", facts)
    workers[1].set_micro_batches(False, 4)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    halves = []
    for half in order.split(ROWS // 2):
        update(workers[1], data, weight_N, half)
        halves += workers[1].take_gradient()
    update(workers[1], data, weight_N, torch.arange(ROWS))
    [one] = workers[1].take_gradient()
    assert relative(halves[0] + halves[1], one) < 1e-5


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_gradient_is_the_same_however_the_batch_is_split(name, workers, batch):
    data, facts, rows, model = batch
    weight_N = weights(name, facts)
    in_order = torch.arange(ROWS)
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))

    workers[1].set_micro_batches(False, ROWS)
    update(workers[1], data, weight_N, in_order)
    [one] = workers[1].take_gradient()

    # A micro-batch of at most 40 tokens: several on each rank.
    split = workers[RANKS[-1]]
    split.set_micro_batches(True, 40)
    update(split, data, weight_N, shuffled)
    for gradient in split.take_gradient():
        assert relative(gradient, one) < 1e-5
    assert relative(one, reference_gradient(model, rows, weight_N)) < 1e-5


@pytest.mark.parametrize("ranks", RANKS)
def test_token_micro_knows_the_micro_batches_that_verl_makes(ranks, workers, batch, config):
    data, (length_N, *_, counted_N), rows, model = batch
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    config = deepcopy(config)
    config.actor_rollout_ref.rollout.n, actor = NUM_PROMPTS, config.actor_rollout_ref.actor
    actor.ppo_mini_batch_size, actor.ppo_max_token_len_per_gpu = ROWS // NUM_PROMPTS, 40
    micro_N = torch.empty_like(order)
    micro_N[order] = packing.micro_batches(data["input_ids"].offsets().diff()[order], ranks, config)
    assert micro_N.amax() >= 4
    columns = [column[counted_N] for column in (length_N, *[micro_N] * 3)]
    weight_N = over_all_rows(RULES[MICRO](*columns[:3], micro_N=columns[3]), counted_N).float()
    workers[ranks].set_micro_batches(True, 40)
    sent = {WEIGHT_COLUMN: weight_N, **micro_columns(micro_N)}
    loss = partial(weighted_ppo_loss, config=default_config("vanilla"))
    update_with(workers[ranks], data, sent, order, loss)
    expected = reference_gradient(model, rows, weight_N)
    assert relative(workers[ranks].take_gradient()[0], expected) < 1e-5
    whole = reference_gradient(model, rows, weights("token_batch", batch[1]))
    assert relative(expected, whole) > 1e-2


def lambda_columns(facts, exponent=-1.5):
    *columns, counted_N = facts
    parts = value_and_slope(RULES["lambda"], exponent, *(c[counted_N] for c in columns))
    return [over_all_rows(part, counted_N).float() for part in parts]


@pytest.mark.parametrize("loss", [n for n in losses() if not refusal(default_config(n))])
def test_every_loss_that_takes_weights_keeps_gradient_and_slope_under_any_split(
    loss, workers, batch
):
    data, facts, _, _ = batch
    weight_N, slope_N = lambda_columns(facts)
    found = []
    for ranks, micro_batches in ((1, (False, ROWS)), (RANKS[-1], (True, 40))):
        workers[ranks].set_micro_batches(*micro_batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(ranks))
        metrics = update(
            workers[ranks], data, weight_N, order, slope_N=slope_N, loss=default_config(loss)
        )
        found.append((workers[ranks].take_gradient()[0], metrics[SLOPE_METRIC][0]))
    (whole, slope), (parts, slope_of_parts) = found
    assert relative(parts, whole) < 1e-5
    assert slope_of_parts == pytest.approx(slope, rel=1e-5)
    if loss == "vanilla":
        assert slope == pytest.approx(reference_slope(batch), rel=1e-5)


def reference_slope(batch, exponent=-1.5):
    """By autograd through the rule, on the model by itself."""
    _, (*columns, counted_N), rows, model = batch
    scalar = torch.tensor(exponent, dtype=torch.double, requires_grad=True)
    weight_C = RULES["lambda"](*(column[counted_N] for column in columns), exponent=scalar)
    weight_N = torch.zeros(ROWS, dtype=torch.double).index_put(
        (counted_N.nonzero()[:, 0],), weight_C * ROWS / len(weight_C)
    )
    sum(
        response_loss(model, row, weight) for row, weight in zip(rows, weight_N, strict=True)
    ).backward()
    return scalar.grad.item()


def disco_columns(batch):
    """Groups and verdicts, aborted rows in none."""
    _, (_, advantage_N, group_N, counted_N), _, _ = batch
    correct_N = (advantage_N > 0).float()
    return {GROUP_COLUMN: group_N.where(counted_N, -1), CORRECT_COLUMN: correct_N}


def disco_reference(batch, settings):
    """The minimised loss of DisCO as the paper writes it, on the model by itself, with gradient."""
    _, (_, advantage_N, group_N, counted_N), rows, model = batch
    correct_N = advantage_N > 0
    score_N, kl_terms = [], []
    for row in rows:
        log_prob, old = response_log_prob(model, row).double(), row["old_log_probs"].double()
        is_likelihood = settings.score == "log_likelihood"
        score_N.append((log_prob if is_likelihood else (log_prob - old).exp()).mean())
        if row["response_mask"].any():
            kl_terms.append(old - log_prob)
    objective = torch.zeros((), dtype=torch.double)
    for group in range(NUM_PROMPTS):
        members = [i for i in range(ROWS) if group_N[i] == group and counted_N[i]]
        correct = torch.stack([score_N[i] for i in members if correct_N[i]] or [objective])
        incorrect = [score_N[i] for i in members if not correct_N[i]]
        if incorrect and len(incorrect) < len(members):
            incorrect, tau = torch.stack(incorrect), settings.tau
            against = (
                incorrect.mean()
                if math.isinf(tau)
                else tau * ((incorrect / tau).exp().mean()).log()
            )
            objective = objective + (correct.mean() - against) / NUM_PROMPTS
    kl = torch.cat(kl_terms).mean()
    penalty = settings.kl_penalty / 2 * (kl - settings.kl_limit).clamp(min=0) ** 2
    return penalty - objective, objective.item(), kl.item()


DISCO = {
    f"{score}-tau-{tau}": DiscoSettings(score, tau, 1e-3, 100.0, "k1")
    for score in ("log_likelihood", "likelihood_ratio")
    for tau in (0.5, math.inf)
}


@pytest.mark.parametrize("name", DISCO)
def test_disco_is_exact_under_any_split_although_it_couples_the_responses(name, workers, batch):
    data, _, _, model = batch
    settings, columns = DISCO[name], disco_columns(batch)
    found = []
    for ranks, micro_batches in ((1, (False, ROWS)), (RANKS[-1], (True, 40))):
        workers[ranks].set_micro_batches(*micro_batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(ranks))
        loss_fn = DiscoLoss(settings)
        metrics = update_with(workers[ranks], data, columns, order, loss_fn)
        found.append((workers[ranks].take_gradient()[0], metrics))
    model.zero_grad()
    loss, objective, kl = disco_reference(batch, settings)
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert kl > settings.kl_limit, "the constraint is felt"
    for gradient, metrics in found:
        assert relative(gradient, expected) < 1e-5
        assert metrics["disco_objective"] == pytest.approx([objective], rel=1e-5, abs=1e-6)
        assert metrics["disco_kl"] == pytest.approx([kl], rel=1e-4)


def test_on_policy_disco_needs_no_look(workers, batch):
    """Where the old log-probs are those of the parameters, the gradient is the same without it."""
    data, _, rows, model = batch
    columns = disco_columns(batch)
    own = data.copy()
    with torch.no_grad():
        log_probs = [response_log_prob(model, row) for row in rows]
    own["old_log_probs"] = torch.nested.as_nested_tensor(log_probs, layout=torch.jagged)
    gradients = []
    for on_policy in (False, True):
        tu.assign_non_tensor(own, **{ON_POLICY: on_policy})
        loss_fn = DiscoLoss(DISCO["log_likelihood-tau-0.5"])
        update_with(workers[1], own, columns, torch.arange(ROWS), loss_fn)
        gradients += workers[1].take_gradient()
    assert relative(gradients[1], gradients[0]) < 1e-5


def test_factors_by_token_go_with_their_tokens_under_any_split(workers, batch):
    data, facts, rows, model = batch
    weight_N = weights("balanced", facts)
    generator = torch.Generator().manual_seed(4)
    factors = [2 * torch.rand(len(row["advantages"]), generator=generator) for row in rows]
    factor_NT = torch.nested.as_nested_tensor(factors, layout=torch.jagged)
    columns = {WEIGHT_COLUMN: weight_N, FACTOR_COLUMN: factor_NT}
    loss_fn = partial(weighted_ppo_loss, config=default_config("vanilla"))
    found = []
    for ranks, micro_batches in ((1, (False, ROWS)), (RANKS[-1], (True, 40))):
        workers[ranks].set_micro_batches(*micro_batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(ranks))
        update_with(workers[ranks], data, columns, order, loss_fn)
        found += workers[ranks].take_gradient()[:1]
    own = [
        row | {"advantages": row["advantages"] * f} for row, f in zip(rows, factors, strict=True)
    ]
    expected = reference_gradient(model, own, weight_N)
    for gradient in found:
        assert relative(gradient, expected) < 1e-5


@pytest.mark.parametrize("measure", ["tokens", "probability", "weights"])
def test_bapo_clips_alike_under_any_split(measure, workers, batch):
    """The bounds are those of the whole mini-batch, and so is the gradient."""
    data, facts, rows, model = batch
    weight_N = weights("token", facts)
    bounds = {"lower_start": 0.8, "lower_end": 1.0 - 1e-9, "lower_step": 0.01}
    bounds |= {"upper_start": 1.01, "upper_end": 1.5, "upper_step": 0.01}

    def update(ranks, micro_batches, target):
        workers[ranks].set_micro_batches(*micro_batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(ranks))
        settings = BapoSettings(
            **bounds, target=target, first="upper", measure=measure, scope="mini_batch"
        )
        loss_fn = BapoLoss(default_config("vanilla"), settings)
        metrics = update_with(workers[ranks], data, {WEIGHT_COLUMN: weight_N}, order, loss_fn)
        return workers[ranks].take_gradient()[0], metrics

    one, several = (1, (False, ROWS)), (RANKS[-1], (True, 40))
    [start] = update(*one, target=0.0)[1]["bapo_share_start"]
    found = [update(*split, target=start + 0.01) for split in (one, several)]
    (whole, first), (parts, second) = found
    assert relative(parts, whole) < 1e-5
    for key in ("bapo_lower", "bapo_upper", "bapo_share"):
        assert second[key] == pytest.approx(first[key], rel=1e-5)
    [low], [high] = first["bapo_lower"], first["bapo_upper"]
    assert (low, high) != (0.8, 1.01), "the bounds have moved"
    model.zero_grad()
    for row, weight in zip(rows, weight_N, strict=True):
        ratio, a = (response_log_prob(model, row) - row["old_log_probs"]).exp(), row["advantages"]
        token_loss = -torch.minimum(ratio * a, ratio.clamp(low, high) * a)
        (weight * (token_loss * row["response_mask"]).sum() / ROWS).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert relative(whole, expected) < 1e-5


@pytest.mark.parametrize("ranks", RANKS)
def test_two_halves_of_a_mini_batch_are_compared_and_add_up(ranks, workers, batch):
    data, facts, rows, model = batch
    weight_N, half = weights("token", facts), ROWS // 2
    order = torch.arange(ROWS).view(2, ranks, -1).transpose(0, 1).flatten()
    workers[ranks].set_micro_batches(True, 40)
    metrics = update(workers[ranks], data, weight_N, order, **{LR_FACTOR: 0.5})
    parts = (slice(half), slice(half, None))
    one, two = (reference_gradient(model, rows[part], weight_N[part]).double() for part in parts)
    assert relative(workers[ranks].take_gradient()[0], (one + two).float()) < 1e-5
    assert metrics[SQUARE][0] == pytest.approx((one + two).square().sum().item(), rel=1e-4)
    assert metrics[SIGNAL][0] == pytest.approx(4 * (one @ two).item(), rel=1e-3)


@pytest.mark.skipif(not FSDP1, reason="FSDP1 takes no parameters on a CPU; here a second GPU")
@pytest.mark.parametrize("name", sorted(RULES))
def test_fsdp_has_the_gradient_norm_of_fsdp2(name, workers, batch):
    data, facts, _, _ = batch
    weight_N = weights(name, facts)
    norms = []
    for group in (workers[1], workers["fsdp"]):
        group.set_micro_batches(True, 40)
        norms += update(group, data, weight_N, torch.arange(ROWS))["grad_norm"]
        group.forget()
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_the_rules_differ_on_this_batch(workers, batch):
    data, facts, _, _ = batch
    gradients = {}
    workers[1].set_micro_batches(False, ROWS)
    for name in RULES:
        update(workers[1], data, weights(name, facts), torch.arange(ROWS))
        [gradients[name]] = workers[1].take_gradient()
    for name in set(RULES) - {"balanced"}:
        assert relative(gradients[name], gradients["balanced"]) > 1e-2


@pytest.mark.parametrize("ranks", RANKS)
def test_the_update_norm_is_that_of_the_parameter_change(ranks, workers, batch):
    data, facts, _, _ = batch
    group = workers[ranks]
    before = group.take_parameters()[0]
    metrics = update(group, data, weights("token", facts), torch.arange(ROWS), lr=1e-2)
    # After AdamW's first step sqrt(v_hat) is the size of the gradient.
    small = (group.take_gradient()[0].abs() < 10 * 1e-8).double().mean().item()
    change = (group.take_parameters()[0] - before).norm().item()
    assert metrics["update_norm"] == pytest.approx([change], rel=1e-3)
    assert metrics["grad_clipped"] == [0.0]
    assert 0 < small < 1
    assert metrics["adamw_scale_sensitive_share"] == pytest.approx([small], rel=1e-3)


def test_disco_looks_at_each_mini_batch_under_the_parameters_it_meets(workers, batch):
    """At a learning rate of 0 two mini-batches are two batches; with one, the second has moved."""
    data, columns = batch[0], disco_columns(batch)
    group, loss_fn = workers[1], DiscoLoss(DISCO["log_likelihood-tau-0.5"])
    group.set_micro_batches(False, 4)
    kls = []
    for lr in (0.0, 1e-3):
        before = group.take_parameters()[0]
        order, half = torch.arange(ROWS), ROWS // 2
        metrics = update_with(group, data, columns, order, loss_fn, lr, mini_batch=half)
        kls.append(metrics["disco_kl"])
        group.forget()
        moved = (group.take_parameters()[0] - before).norm()
        assert (moved > 0) == (lr > 0)
    (first, second), (same, other) = kls
    assert first == pytest.approx(same, rel=1e-6)
    assert abs(second - other) > 1e-4
