import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl import DataProto
from verl.trainer.ppo.core_algos import AdvantageEstimator, compute_grpo_outcome_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from recipe.analysis.advantages import ESTIMATORS, group_advantages

# Their group means are exact, so that verl's too are 0 for equal scores.
SCORES = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
GROUPS = st.lists(st.tuples(st.integers(0, 4), SCORES), min_size=1, max_size=24)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@given(rows=GROUPS)
def test_advantages_are_those_of_verl(estimator, rows):
    group_N, score_N = (np.array(column) for column in zip(*rows, strict=True))
    ours = group_advantages(
        score_N, group_N, np.arange(len(rows)), np.zeros(len(rows), int), estimator
    )
    theirs, _ = compute_grpo_outcome_advantage(
        torch.tensor(score_N)[:, None],
        torch.ones(len(rows), 1),
        group_N,
        norm_adv_by_std_in_grpo=estimator == "grpo",
    )
    np.testing.assert_allclose(ours, theirs[:, 0].numpy(), rtol=1e-6, atol=1e-7)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), SCORES), min_size=1), st.randoms())
def test_a_sample_of_several_outputs_has_the_advantage_of_its_last_as_in_verl(rows, random):
    outputs: dict[tuple, int] = {}
    table = []
    for group, sample, score in rows:
        output = outputs[group, sample] = outputs.get((group, sample), -1) + 1
        table.append((group, sample, output, score))
    random.shuffle(table)
    group_N, sample_N, output_N, score_N = (np.array(column) for column in zip(*table, strict=True))
    ours = group_advantages(score_N, group_N, sample_N, output_N)
    data = DataProto.from_dict(
        {
            "token_level_rewards": torch.tensor(score_N)[:, None],
            "response_mask": torch.ones(len(table), 1),
        },
        {"uid": np.array([str(group) for group in group_N], dtype=object)},
    )
    keys = [f"{group}_{sample}_{output}" for group, sample, output, _ in table]
    theirs = compute_advantage_for_multi_trajectories(data, keys, AdvantageEstimator.GRPO)
    np.testing.assert_allclose(ours, theirs.batch["advantages"][:, 0].numpy(), atol=1e-5)


def test_advantages_worked_out_by_hand():
    score_N, group_N = np.array([1.0, 0, 0, 0, 2]), np.array([3, 3, 3, 3, 8])
    found = group_advantages(score_N, group_N, np.arange(5), np.zeros(5, int))
    # Mean 1/4; squares 9/16 and three of 1/16 over 3: standard deviation 1/2. A group of one.
    np.testing.assert_allclose(found, [1.5, -0.5, -0.5, -0.5, 2], rtol=1e-5)


def test_equal_scores_have_advantage_exactly_zero():
    score_N = np.full(3, 0.1)
    assert (score_N - score_N.mean() != 0).any()
    found = group_advantages(score_N, np.zeros(3, int), np.arange(3), np.zeros(3, int))
    assert found.tolist() == [0, 0, 0]
