"""The gradient does not depend on how a batch is split: on verl's FSDP2 engine, in Ray workers."""

import math

import pytest
import torch
from gradient_stage import (
    CPU,
    FSDP1,
    NUM_PROMPTS,
    RANKS,
    ROWS,
    relative,
    response_log_prob,
    update,
    update_with,
)
from verl.utils import tensordict_utils as tu

from recipe.maths.disco import DiscoSettings
from recipe.maths.rules import RULES, over_all_rows, value_and_slope, with_limit
from recipe.objectives.losses.disco import CORRECT_COLUMN, GROUP_COLUMN, ON_POLICY, DiscoLoss
from recipe.objectives.losses.weightable import default_config, losses, refusal
from recipe.objectives.losses.weighted import SLOPE_METRIC

pytest_plugins = ["gradient_stage"]
# Also part of `make gpu-smoke`, where there is one GPU or more.
pytestmark = pytest.mark.live if CPU else pytest.mark.gpu


def weights(name, facts, limit=96.0):
    *columns, counted_N = facts
    rule = with_limit(limit)[name]
    return over_all_rows(rule(*(column[counted_N] for column in columns)), counted_N).float()


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


def reference_gradient(model, rows, weight_N):
    """Autograd on the model by itself, row by row, from the definition of the objective."""
    model.zero_grad()
    for row, weight in zip(rows, weight_N, strict=True):
        response_loss(model, row, weight).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def response_loss(model, row, weight):
    """A response's term of the objective."""
    ratio = (response_log_prob(model, row) - row["old_log_probs"]).exp()
    a = row["advantages"]
    token_loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    return weight * (token_loss * row["response_mask"]).sum() / ROWS


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
