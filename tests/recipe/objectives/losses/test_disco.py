"""DisCO's loss in verl's form, in float64, beside the objective as the paper writes it."""

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric

from recipe.maths.disco import DiscoSettings
from recipe.objectives.base import ON_POLICY
from recipe.objectives.disco import CORRECT_COLUMN, GROUP_COLUMN
from recipe.objectives.losses import disco as disco_loss
from recipe.objectives.losses.disco import DiscoLoss

PROMPT = 2
LENGTHS = [3, 1, 4, 2, 5, 2, 3, 1]
GROUPS = [0, 0, 0, 1, 1, 2, 2, -1]  # group 2 has one verdict, and the last row is padding
CORRECT = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]


def nested(rows):
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@pytest.fixture
def log_probs():
    """Current and old, of each response's tokens."""
    generator = torch.Generator().manual_seed(0)
    current = [-torch.rand(n, generator=generator).double() for n in LENGTHS]
    old = [c + 0.3 * torch.randn(len(c), generator=generator).double() for c in current]
    # Of no group and not trained: its ratio may be infinite.
    old[-1] = current[-1] - 1000
    return current, old


def reference(current, old, settings):
    """The loss that is minimised: arXiv:2505.12366, for log-likelihoods and likelihood ratios."""
    is_likelihood = settings.score == "log_likelihood"
    score = [
        c.mean() if is_likelihood else (c - o).exp().mean()
        for c, o in zip(current, old, strict=True)
    ]
    objective = torch.zeros(()).double()
    for group in range(3):
        members = [i for i in range(len(GROUPS)) if GROUPS[i] == group]
        correct = [score[i] for i in members if CORRECT[i]]
        incorrect = [score[i] for i in members if not CORRECT[i]]
        if correct and incorrect:
            if math.isinf(settings.tau):
                against = sum(incorrect) / len(incorrect)
            else:
                exps = [(s / settings.tau).exp() for s in incorrect]
                against = settings.tau * (sum(exps) / len(exps)).log()
            objective = objective + (sum(correct) / len(correct) - against) / 3
    trained = [i for i in range(len(GROUPS)) if GROUPS[i] >= 0]
    change = torch.cat([current[i] - old[i] for i in trained])
    kl = (-change if settings.kl == "k1" else change.exp() - 1 - change).mean()
    penalty = settings.kl_penalty / 2 * torch.clamp(kl - settings.kl_limit, min=0) ** 2
    return penalty - objective, objective.item(), kl.item()


def mini_batch(old, rows):
    return TensorDict(
        {
            "prompts": nested([torch.ones(PROMPT).long() for _ in rows]),
            "responses": nested([torch.ones(LENGTHS[i]).long() for i in rows]),
            "response_mask": nested([torch.full((LENGTHS[i],), GROUPS[i] >= 0) for i in rows]),
            "old_log_probs": nested([old[i] for i in rows]),
            GROUP_COLUMN: torch.tensor([GROUPS[i] for i in rows]),
            CORRECT_COLUMN: torch.tensor([CORRECT[i] for i in rows]),
        },
        batch_size=len(rows),
    )


def model_output(current):
    """Outputs cover the prompt, and stand one token to the left."""
    pads = torch.zeros(PROMPT - 1).double(), torch.zeros(1).double()
    return {"log_probs": nested([torch.cat([pads[0], c, pads[1]]) for c in current])}


@pytest.mark.parametrize("kl", ["k1", "low_var"])
@pytest.mark.parametrize("tau", [0.2, 10.0, math.inf])
@pytest.mark.parametrize("score", ["log_likelihood", "likelihood_ratio"])
def test_ranks_and_micro_batches_add_up_to_the_papers_gradient(
    score, tau, kl, log_probs, monkeypatch
):
    current, old = log_probs
    settings = DiscoSettings(score, tau, 1e-3, 50.0, kl)
    leaves = [c.clone().requires_grad_() for c in current]
    loss, objective, expected_kl = reference(leaves, old, settings)
    loss.backward()
    assert expected_kl > settings.kl_limit
    expected = torch.cat([torch.zeros_like(x) if x.grad is None else x.grad for x in leaves])

    # Two ranks with four rows each, which look in turn; then micro-batches of one row or three.
    ranks = [[6, 0, 3, 7], [5, 2, 4, 1]]
    loss_fn, sent = DiscoLoss(settings), []
    monkeypatch.setattr(disco_loss, "look", lambda _, data, __: padded([current[i] for i in rows]))
    monkeypatch.setattr(disco_loss, "gathered", lambda _, row_NC: sent.append(row_NC) or row_NC)
    for rows in ranks:
        loss_fn.prepare(engine(0), mini_batch(old, rows), {})
    monkeypatch.setattr(disco_loss, "gathered", lambda *_: torch.cat(sent[:2]))
    found, values = {}, []
    for rank, rows in enumerate(ranks):
        data = mini_batch(old, rows)
        loss_fn.prepare(engine(rank), data, {})
        tu.assign_non_tensor(data, dp_size=2)
        for part in ([0], [1, 2, 3]):
            leaves = [current[rows[i]].clone().requires_grad_() for i in part]
            micro_batch = tu.index_select_tensor_dict(data, torch.tensor(part))
            part_loss, metrics = loss_fn(model_output(leaves), micro_batch)
            (part_loss / 2).backward()
            found |= {rows[i]: leaf.grad for i, leaf in zip(part, leaves, strict=True)}
            values.append({name: metric.aggregate() for name, metric in metrics.items()})
            assert all(isinstance(metric, Metric) for metric in metrics.values())
    whole = torch.cat([found[i] for i in range(len(LENGTHS))])
    torch.testing.assert_close(whole, expected, rtol=1e-9, atol=1e-12)
    for value in values:
        assert value["disco_objective"] == pytest.approx(objective, rel=1e-9, abs=1e-12)
        assert value["actor/pg_loss"] == -value["disco_objective"]
        assert value["disco_kl"] == pytest.approx(expected_kl, rel=1e-9)
        pressure = settings.kl_penalty * (expected_kl - settings.kl_limit)
        assert value["disco_pressure"] == pytest.approx(pressure, rel=1e-9)


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def engine(rank):
    return SimpleNamespace(get_data_parallel_size=lambda: 2, get_data_parallel_rank=lambda: rank)


ALONE = SimpleNamespace(get_data_parallel_size=lambda: 1, get_data_parallel_rank=lambda: 0)


def test_below_the_limit_nothing_is_paid(log_probs, monkeypatch):
    current, old = log_probs
    monkeypatch.setattr(disco_loss, "look", lambda *_: padded(current))
    _, _, kl = reference(current, old, DiscoSettings("log_likelihood", 1.0, 0.0, 1.0, "k1"))
    for limit, pressure in ((kl + 0.01, 0.0), (kl - 0.01, 1.0)):
        data = mini_batch(old, range(len(LENGTHS)))
        tu.assign_non_tensor(data, dp_size=1)
        loss_fn = DiscoLoss(DiscoSettings("log_likelihood", 1.0, max(limit, 0), 100.0, "k1"))
        loss_fn.prepare(ALONE, data, {})
        _, metrics = loss_fn(model_output(current), data)
        assert metrics["disco_pressure"].aggregate() == pytest.approx(pressure)


def test_on_policy_nothing_is_looked_at(log_probs):
    """The stub of an engine has no forward pass."""
    _, old = log_probs
    data = mini_batch(old, range(len(LENGTHS)))
    tu.assign_non_tensor(data, dp_size=1, **{ON_POLICY: True})
    loss_fn = DiscoLoss(DiscoSettings("log_likelihood", 1.0, 0.0, 1e3, "k1"))
    loss_fn.prepare(ALONE, data, {})
    _, metrics = loss_fn(model_output(old), data)
    assert metrics["disco_kl"].aggregate() == metrics["disco_pressure"].aggregate() == 0


def test_log_probs_in_bfloat16_are_summed_in_float32(log_probs, monkeypatch):
    _, old = log_probs
    coarse = [x.bfloat16() for x in old]
    sent = []
    monkeypatch.setattr(disco_loss, "gathered", lambda _, row_NC: sent.append(row_NC) or row_NC)
    data = mini_batch(coarse, range(len(LENGTHS)))
    tu.assign_non_tensor(data, **{ON_POLICY: True})
    DiscoLoss(DiscoSettings("log_likelihood", 1.0, 0.0, 1e3, "k1")).prepare(ALONE, data, {})
    expected = torch.stack([x.double().mean() for x in coarse[:-1]])
    torch.testing.assert_close(sent[0][:-1, 0], expected, rtol=1e-6, atol=0)


def test_a_mini_batch_without_a_trained_token_has_the_loss_0(log_probs):
    _, old = log_probs
    data = mini_batch(old, [7, 7])
    tu.assign_non_tensor(data, dp_size=1, **{ON_POLICY: True})
    loss_fn = DiscoLoss(DiscoSettings("log_likelihood", 1.0, 0.0, 1e3, "k1"))
    loss_fn.prepare(ALONE, data, {})
    loss, metrics = loss_fn(model_output([old[7], old[7]]), data)
    assert loss.item() == metrics["disco_kl"].aggregate() == 0
