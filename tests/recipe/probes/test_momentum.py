from itertools import pairwise

import pytest
import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.workers.config import FSDPActorConfig

from recipe.probes import momentum
from recipe.probes.momentum import (
    BETAS,
    CLIP_HIGH,
    CLIP_LOW,
    NUM_FLAT,
    T,
    finite_T,
    first_order_excess,
    large_T,
    past_bound,
)


@pytest.mark.parametrize("betas", BETAS)
def test_the_closed_form_is_what_torchs_adamw_does_without_gradient(betas):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(20, dtype=torch.double))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, betas=betas, eps=0.0, weight_decay=0.0)

    def step(gradient):
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
        return (parameter.detach() - before).norm().item()

    for _ in range(T - 1):
        last = step(torch.randn(20, generator=generator, dtype=torch.double))
    found = [step(torch.zeros(20, dtype=torch.double)) / last for _ in range(NUM_FLAT)]
    expected = [finite_T(*betas, k) for k in range(NUM_FLAT)]
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("betas", BETAS)
def test_the_limit_is_that_of_many_updates(betas, monkeypatch):
    monkeypatch.setattr(momentum, "T", 100_000)
    for k in range(NUM_FLAT):
        assert finite_T(*betas, k) == pytest.approx(large_T(*betas, k), rel=1e-9)


def test_the_limit_has_the_papers_numbers():
    assert [round(large_T(0.9, 0.95, k), 3) for k in (0, 4)] == [0.923, 0.671]
    assert [round(large_T(0.9, 0.999, k), 3) for k in range(5)] == [0.9, 0.811, 0.73, 0.657, 0.592]


def test_past_its_bound_no_token_has_a_gradient_and_just_within_each_has():
    advantage_N = torch.tensor([0.75, -0.25, -1.0])
    log_prob_N = [torch.tensor([-0.1, -2.0]), torch.tensor([-1.0, -3.0]), torch.tensor([-4.0, 0.0])]
    config = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        clip_ratio_low=CLIP_LOW,
        clip_ratio_high=CLIP_HIGH,
    )

    def gradient(old_N):
        log_prob = torch.stack(log_prob_N).requires_grad_()
        loss, _ = compute_policy_loss_vanilla(
            torch.stack(old_N),
            log_prob,
            advantage_N[:, None].expand(3, 2),
            torch.ones(3, 2),
            "token-sum",
            config,
        )
        return torch.autograd.grad(loss, log_prob)[0]

    old_N = past_bound(log_prob_N, advantage_N)
    assert (gradient(old_N) == 0).all()
    # A quarter of the way from ratio 1.
    within = [(old + 3 * new) / 4 for old, new in zip(old_N, log_prob_N, strict=True)]
    assert (gradient(within) != 0).all()


def test_the_first_order_of_the_excess_goes_through_its_first_two_values():
    found = first_order_excess([0.3, 0.31, 9.0], 0.9, 0.95)
    assert found[:2] == pytest.approx([0.3, 0.31])
    rises = [after - before for before, after in pairwise(found)]
    expected = [finite_T(0.9, 0.95, k) / finite_T(0.9, 0.95, 0) for k in range(NUM_FLAT - 1)]
    assert [rise / rises[0] for rise in rises] == pytest.approx(expected)


@pytest.mark.slow
def test_the_engine_moves_on_by_the_closed_form_once_the_loss_is_flat(probe):
    """In float32, where eps is 1e-4 of the smallest sqrt(v_hat) that matters."""
    found = probe("momentum", NUM_SAMPLED=6, NUM_GROUPS=3)
    assert found["largest_deviation"] < 1e-5
    *moved, control = found["arms"]
    assert control["measured"] == [0.0] * NUM_FLAT and len(set(control["excess"])) == 1
    for arm in moved:
        assert all(after > before for before, after in pairwise(arm["excess"]))
        rise, expected = (arm[key][-1] - arm[key][0] for key in ("excess", "excess_predicted"))
        assert rise == pytest.approx(expected, rel=0.1)
