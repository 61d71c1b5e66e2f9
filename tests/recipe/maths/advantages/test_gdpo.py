"""GDPO beside its equations written out, and beside verl's own function."""

from dataclasses import asdict, replace
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_gdpo_outcome_advantage

from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths.advantages.base import Scored
from recipe.maths.advantages.gdpo import Gdpo, GdpoSettings, gdpo_advantages

SETTINGS = GdpoSettings(
    rewards={"correctness": 1.0, "format": 0.5},
    statistics="response",
    epsilon=1e-4,
    length_limit=10,
)


def reference(rewards, weights, groups, counts, epsilon):
    """One response at a time; in the batch's statistics row i stands for `counts[i]` rows."""
    sums = []
    for i, group in enumerate(groups):
        total = 0.0
        for name, values in rewards.items():
            members = [v for v, g in zip(values, groups, strict=True) if g == group]
            total += weights[name] * (values[i] - mean(members)) / (stdev(members) + epsilon)
        sums.append(total)
    repeated = [s for s, count in zip(sums, counts, strict=True) for _ in range(count)]
    return [(s - mean(repeated)) / (stdev(repeated) + epsilon) for s in sums]


@st.composite
def batches(draw):
    num_groups, size = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    num = num_groups * size
    value = st.sampled_from([0.0, 1.0, -1.0, 0.25])
    rewards = {name: draw(st.lists(value, min_size=num, max_size=num)) for name in SETTINGS.rewards}
    lengths = draw(st.lists(st.integers(1, 9), min_size=num, max_size=num))
    return rewards, lengths, [i % num_groups for i in range(num)]


def ours(batch, divide_by_std=True, **changes):
    rewards, lengths, groups = batch
    given = {name: torch.tensor(values) for name, values in rewards.items()}
    settings = replace(SETTINGS, **changes)
    found = gdpo_advantages(
        given, torch.tensor(lengths), torch.tensor(groups), settings, divide_by_std
    )
    return found.tolist()


@given(batches(), st.booleans())
def test_advantages_are_those_of_the_equations(batch, by_token):
    rewards, lengths, groups = batch
    counts = lengths if by_token else [1] * len(lengths)
    expected = reference(rewards, SETTINGS.rewards, groups, counts, SETTINGS.epsilon)
    found = ours(batch, statistics="token" if by_token else "response")
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(batches())
def test_the_token_statistics_are_those_of_verl(batch):
    """Its own function, on columns padded as its legacy trainer has them."""
    rewards, lengths, groups = batch
    assume(any(len(set(values)) > 1 for values in rewards.values()))
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).float()
    verls, _ = compute_gdpo_outcome_advantage(
        torch.zeros_like(mask),
        mask,
        np.array([str(g) for g in groups]),
        config={"gdpo_reward_keys": list(rewards), "gdpo_reward_weights": [1.0, 0.5]},
        non_tensor_batch={name: np.array(values) for name, values in rewards.items()},
        batch={
            "prompts": torch.zeros(len(lengths), 3),
            "attention_mask": torch.cat([torch.ones(len(lengths), 3), mask], dim=1).long(),
        },
    )
    found = ours(batch, statistics="token", epsilon=1e-6)
    spread = max(found) - min(found)
    assume(spread > 0.1)
    # verl computes in float32 and adds its epsilon to the variance.
    assert verls[:, 0].tolist() == pytest.approx(found, rel=2e-4, abs=2e-4)


def test_rewards_whose_sum_is_equal_are_told_apart():
    """What the paper holds against GRPO: right without form, and form without right, sum alike."""
    rewards = {"correctness": [1.0, 0.0, 0.0, 0.0], "format": [0.0, 1.0, 1.0, 1.0]}
    found = ours((rewards, [1] * 4, [0] * 4), rewards={"correctness": 1.0, "format": 1.0})
    assert found == pytest.approx([0.0] * 4, abs=1e-9)
    rewards = {"correctness": [1.0, 0.0, 0.0, 0.0], "format": [0.0, 1.0, 0.0, 1.0]}
    found = ours((rewards, [1] * 4, [0] * 4), rewards={"correctness": 1.0, "format": 1.0})
    assert found[0] > found[1] > found[2]


def test_a_group_of_equal_rewards_has_no_advantage_by_responses_whatever_the_rounding():
    """0.1 three times has a rounded mean, large numbers more so, and so has the batch."""
    rewards = {"correctness": [1.0, 0.0, 0.0, 0.1, 0.1, 0.1], "format": [1.0, 1, 0, 1e6, 1e6, 1e6]}
    batch = rewards, [1, 9, 3, 2, 2, 2], [0, 0, 0, 1, 1, 1]
    weights = {"correctness": 0.7, "format": 0.3}
    assert ours(batch, rewards=weights)[3:] == [0, 0, 0]
    by_token = ours(batch, rewards=weights, statistics="token")
    assert by_token[3] == by_token[4] != 0  # the shift of the batch's token mean


def test_one_reward_is_grpo_on_another_scale():
    batch = {"correctness": [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]}, [1] * 6, [0, 0, 0, 1, 1, 1]
    found = ours(batch, rewards={"correctness": 1.0})
    deviation = [2 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, -2 / 3]
    ratios = {round(f / d, 6) for f, d in zip(found, deviation, strict=True)}
    assert len(ratios) == 1


def test_without_division_by_the_standard_deviation_groups_keep_their_spread():
    """As for Dr. GRPO: the batch is normalised once, its groups are not."""
    batch = {"correctness": [1.0, 0.0, 0.6, 0.4]}, [1] * 4, [0, 0, 1, 1]
    chosen = {"rewards": {"correctness": 1.0}}
    raw = ours(batch, divide_by_std=False, **chosen)
    assert raw[0] / raw[2] == pytest.approx(5)
    divided = ours(batch, **chosen)
    assert divided[0] / divided[2] == pytest.approx(1, rel=1e-3)


def rows(**components):
    return Scored(
        advantage_N=torch.zeros(4),
        score_N=torch.zeros(4),
        correct_N=torch.tensor([1, 0, 0, 0]) > 0,
        length_N=torch.tensor([3, 10, 0, 2]),
        num_tokens_N=torch.tensor([3, 10, 11, 20]),
        group_N=torch.tensor([0, 0, 1, 1]),
        info_N=[{name: values[i] for name, values in components.items()} for i in range(4)],
    )


def test_verdict_and_length_are_components_beside_what_the_reward_returns():
    chosen = replace(SETTINGS, rewards={"correctness": 1, "length": 1, "politeness": 1})
    found, metrics = Gdpo(chosen)(rows(politeness=[0.0, 0.0, 1.0, 0.0]))
    given = {
        "correctness": torch.tensor([1.0, 0, 0, 0]),
        "length": torch.tensor([1.0, 1, 0, 0]),
        "politeness": torch.tensor([0.0, 0, 1, 0]),
    }
    expected = gdpo_advantages(given, torch.ones(4), torch.tensor([0, 0, 1, 1]), chosen)
    torch.testing.assert_close(found, expected)
    assert metrics["reward_length"] == 0.5
    assert metrics["groups_by_correctness"] == 0.5
    assert metrics["groups_by_length"] == 0


def test_a_component_that_the_trainer_makes_is_not_replaced_by_a_scorers_own():
    chosen = replace(SETTINGS, rewards={"length": 1})
    with pytest.raises(ValueError, match="length, which the trainer makes and your scorer returns"):
        Gdpo(chosen)(rows(length=[345.0] * 4))
    Gdpo(replace(SETTINGS, rewards={"correctness": 1}))(rows(length=[345.0] * 4))


def test_a_component_that_the_reward_does_not_return_is_named():
    with pytest.raises(ValueError, match=r"format, which the reward does not return.* politeness"):
        Gdpo(SETTINGS)(rows(politeness=[0.0] * 4))
    # Words are no rewards, even if they can be read as numbers.
    with pytest.raises(ValueError, match="format, which the reward does not return as a number"):
        Gdpo(SETTINGS)(rows(format=[1.0, "1", 0.0, 0.0]))


@pytest.mark.parametrize(
    "incorrect",
    [
        {"rewards": None},
        {"rewards": {}},
        {"rewards": {"format": 0.0}},
        {"rewards": {"format": float("nan")}},
        {"rewards": {"format": "much"}},
        {"statistics": "group"},
        {"epsilon": 0},
        {"length_limit": -1},
    ],
)
def test_settings_that_mean_nothing_are_refused(incorrect):
    with pytest.raises(UserError, match=f"advantage.gdpo.{next(iter(incorrect))}"):
        parse(GdpoSettings, asdict(SETTINGS) | incorrect, "advantage.gdpo")
