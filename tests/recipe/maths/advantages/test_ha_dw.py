"""HA-DW beside its equations, written out for one response and one batch at a time."""

import math
from dataclasses import asdict, replace
from statistics import mean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths.advantages.base import Scored
from recipe.maths.advantages.ha_dw import Anchor, HaDw, HaDwSettings, difficulty_factors
from recipe.maths.within import mean_within

ADAPTIVE = HaDwSettings(anchor="adaptive", scale=1.3, window=4, rate=10.0, reward="correct")
WINDOW = replace(ADAPTIVE, anchor="window")
CODE = replace(ADAPTIVE, anchor="window_with_current", scale=1.5, reward="score")


def reference_factor(advantage, group_rewards, anchor, scale):
    """Eq. 13-16 for one response."""

    def sgn(x):
        return (x > 0) - (x < 0)

    diff = mean(group_rewards) - anchor
    direction = -sgn(advantage) * sgn(diff)
    return scale * math.exp(direction * abs(diff))


def reference_anchors(observations, window, eta):
    """C- of each batch by eq. 8-11, from the mean of the first `window` batches on."""
    anchors, before = [], []
    for t, y in enumerate(observations):
        before.append(anchors[-1] if anchors else y)
        if t < window:
            anchors.append(mean(observations[: t + 1]))
            continue
        center = mean(anchors[-window:])
        sigma = math.sqrt(mean((c - center) ** 2 for c in anchors[-window:]))
        eta_t = min(1.0, eta * sigma)
        anchors.append((1 - eta_t) * anchors[-1] + eta_t * y)
    return before


rates = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(rates, st.floats(0.1, 20))
def test_the_adaptive_anchor_follows_the_equations(observations, eta):
    anchor = Anchor(replace(ADAPTIVE, rate=eta))
    found = []
    for y in observations:
        found.append(anchor.before(y))
        anchor.observe(y)
    assert found == pytest.approx(reference_anchors(observations, 4, eta), abs=1e-12)


@given(rates)
def test_the_hard_anchor_is_the_mean_of_the_batches_before(observations):
    """Appendix F; and the public code, in which the batch itself is one of them."""
    before, current = Anchor(WINDOW), Anchor(CODE)
    for t, y in enumerate(observations):
        expected = mean(observations[max(0, t - 4) : t]) if t else y
        assert before.before(y) == pytest.approx(expected, abs=1e-12)
        with_current = mean(observations[max(0, t - 3) : t + 1])
        assert current.before(y) == pytest.approx(with_current, abs=1e-12)
        before.observe(y)
        current.observe(y)


@st.composite
def batches(draw):
    num_groups, size = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    reward_N = draw(
        st.lists(
            st.sampled_from([0.0, 1.0]), min_size=num_groups * size, max_size=num_groups * size
        )
    )
    advantage_N = draw(
        st.lists(st.sampled_from([-1.5, 0.0, 0.5]), min_size=len(reward_N), max_size=len(reward_N))
    )
    return reward_N, advantage_N, [i % num_groups for i in range(len(reward_N))]


@given(batches(), st.floats(0, 1), st.floats(0.5, 2))
def test_factors_are_those_of_the_equations(batch, anchor, scale):
    reward_N, advantage_N, group_N = batch
    success_N = mean_within(torch.tensor(reward_N), torch.tensor(group_N))
    found = difficulty_factors(torch.tensor(advantage_N), success_N, anchor, scale)
    for i, group in enumerate(group_N):
        rewards = [r for r, g in zip(reward_N, group_N, strict=True) if g == group]
        expected = reference_factor(advantage_N[i], rewards, anchor, scale)
        assert found[i].item() == pytest.approx(expected, rel=1e-9)


def scored(reward_N, scores=None):
    reward_N = torch.tensor(reward_N)
    return Scored(
        advantage_N=torch.where(reward_N > 0, 1.0, -1.0),
        score_N=reward_N if scores is None else torch.tensor(scores),
        correct_N=reward_N > 0,
        length_N=torch.full((len(reward_N),), 5),
        num_tokens_N=torch.full((len(reward_N),), 5),
        group_N=torch.arange(len(reward_N)) // 2,
        info_N=[{}] * len(reward_N),
    )


def test_on_a_hard_prompt_right_responses_count_more_and_wrong_ones_less():
    """The first group is half right, the second wholly; the anchor is what came before."""
    advantage = HaDw(WINDOW)
    advantage(scored([1.0, 1.0, 1.0, 1.0]))
    found, metrics = advantage(scored([1.0, 0.0, 1.0, 1.0]))
    assert found.tolist() == pytest.approx(
        [1.3 * math.exp(0.5), -1.3 * math.exp(-0.5), 1.3, 1.3], rel=1e-9
    )
    assert metrics["anchor"] == 1.0
    assert metrics["observed"] == 0.75
    assert metrics["below_anchor"] == 0.5
    assert metrics["factor_negative"] == pytest.approx(1.3 * math.exp(-0.5))
    assert advantage.memory.before(0) == pytest.approx(7 / 8)


def test_scores_of_minus_one_widen_the_distances_only_where_they_are_asked_for():
    rows = scored([1.0, 0.0], scores=[1.0, -1.0])
    assert HaDw(WINDOW)(rows)[1]["observed"] == 0.5
    assert HaDw(CODE)(rows)[1]["observed"] == 0.0


@pytest.mark.parametrize("settings", [ADAPTIVE, WINDOW, CODE])
def test_a_loaded_anchor_goes_on_where_the_saved_one_was(settings, tmp_path):
    observations = [0.1, 0.4, 0.3, 0.6, 0.5, 0.7, 0.2]
    saved = Anchor(settings)
    for y in observations:
        saved.observe(y)
    saved.save(tmp_path / "global_step_7")
    loaded = Anchor(settings)
    loaded.observe(0.9)
    loaded.load(tmp_path / "global_step_7")
    for y in observations:
        assert loaded.before(y) == saved.before(y)
        assert loaded.observe(y) == saved.observe(y)


def test_a_checkpoint_of_another_advantage_or_anchor_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not saved under HA-DW"):
        Anchor(ADAPTIVE).load(tmp_path)
    Anchor(WINDOW).save(tmp_path)
    with pytest.raises(ValueError, match="anchor=window, but it is adaptive"):
        Anchor(ADAPTIVE).load(tmp_path)
    with pytest.raises(ValueError, match="reward=correct, but it is score"):
        Anchor(replace(WINDOW, reward="score")).load(tmp_path)


def test_the_spread_of_anchors_is_over_all_of_them_not_one_less():
    anchor = Anchor(replace(ADAPTIVE, window=2, rate=1.0))
    for y in (0.2, 0.6):
        anchor.observe(y)
    assert anchor.observe(1.0) == pytest.approx(pstdev([0.2, 0.4]))


@pytest.mark.parametrize(
    "incorrect", [{"anchor": "ema"}, {"reward": "acc"}, {"scale": 0}, {"window": 1}, {"rate": None}]
)
def test_settings_that_mean_nothing_are_refused(incorrect):
    with pytest.raises(UserError, match=f"advantage.ha_dw.{next(iter(incorrect))}"):
        parse(HaDwSettings, asdict(ADAPTIVE) | incorrect, "advantage.ha_dw")
