import pytest
import torch

from recipe.probes.reward_scale import (
    BETAS,
    LR,
    NUM_UPDATES,
    PHI,
    Setting,
    distance,
    first_order,
    raw_gradients,
    replay,
    settings,
)
from recipe.probes.stage import NO_CLIP


def gradients(num=6, size=1.0):
    generator = torch.Generator().manual_seed(0)
    scale = size * 10.0 ** torch.linspace(-3, 0, 50, dtype=torch.double)
    return [scale * torch.randn(50, generator=generator, dtype=torch.double) for _ in range(num)]


@pytest.mark.parametrize("clip", [NO_CLIP, 2.0])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_the_replay_is_torchs_adamw_after_torchs_clipping(eps, clip):
    parameter = torch.nn.Parameter(torch.zeros(50, dtype=torch.double))
    optimizer = torch.optim.AdamW([parameter], lr=LR, betas=BETAS, eps=eps, weight_decay=0.0)
    norms = [gradient.norm() for gradient in gradients()]
    assert min(norms) < 2.0 < max(norms)
    for gradient, step in zip(gradients(), replay(gradients(), eps, clip), strict=True):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([parameter], clip)
        optimizer.step()
        torch.testing.assert_close(
            step.update_X, parameter.detach() - before, rtol=1e-8, atol=1e-18
        )


def test_scaling_the_gradient_is_dividing_eps():
    scaled = replay([PHI * gradient for gradient in gradients()], eps=1e-3)
    divided = replay(gradients(), eps=1e-3 / PHI)
    for one, other in zip(scaled, divided, strict=True):
        torch.testing.assert_close(one.update_X, other.update_X, rtol=1e-12, atol=0)


def test_the_first_order_is_the_distance_where_eps_is_small():
    steps = list(replay(gradients(), eps=1e-8))
    others = replay(gradients(), eps=1e-8 / PHI)
    apart = distance((step.update_X for step in others), (step.update_X for step in steps))
    assert [first_order(step, 1e-8) for step in steps] == pytest.approx(apart, rel=1e-2)


def test_clips_hit_the_steps_that_their_names_say():
    norm_S = [3.0, 1.0, 2.0, 4.0]
    clip = {setting.name: setting.clip for setting in settings(norm_S)}
    hit = {name: [norm > clip[name] for norm in norm_S] for name in clip}
    assert all(hit["every step clipped"])
    assert hit["some steps clipped"] == [True, False, False, True]
    assert not any(hit["clipped only if scaled"] + hit["plain"])
    assert all(PHI * norm > clip["clipped only if scaled"] for norm in norm_S)


def test_the_kl_loss_is_not_scaled_with_the_reward():
    policy, kl = torch.ones(3), torch.full((3,), 5.0)
    [with_kl] = raw_gradients(Setting("", kl=True), 10, [policy], [kl])
    [without] = raw_gradients(Setting(""), 10, [policy], [kl])
    assert with_kl.tolist() == [15.0] * 3 and without.tolist() == [10.0] * 3


@pytest.mark.slow
def test_the_engines_updates_are_apart_as_the_replay_says(probe):
    """In float32, and at parameters that differ by up to `NUM_UPDATES` updates of size `LR`."""
    found = probe("reward_scale", NUM_SAMPLED=16, GROUPS_PER_UPDATE=1)
    assert found["largest_deviation"] < 1e-4
    apart = {name: one["measured"][-1] for name, one in found["settings"].items()}
    # From the second update: the first is its gradient's sign, which of 0 is rounding.
    assert max(found["settings"]["every step clipped"]["measured"][1:]) < 2e-5
    for name in ("plain", "eps 1e-5"):
        one = found["settings"][name]
        assert len(one["eps_divided"]) == NUM_UPDATES and max(one["eps_divided"][1:]) < 2e-5
        assert one["first_order"][-1] == pytest.approx(apart[name], rel=0.5)
    assert 1e-4 < apart["plain"] < 0.05 < min(apart["some steps clipped"], apart["KL loss"])
