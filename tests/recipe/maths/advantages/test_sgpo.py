"""SGPO beside its equation written out response by response."""

import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.maths.advantages.base import Scored
from recipe.maths.advantages.sgpo import Sgpo, SgpoSettings

SETTINGS = SgpoSettings(beta=5.0, gamma=0.5, gap=2.0)


def rows(correct: list[bool], progress: list[float], groups: list[int]) -> Scored:
    correct_N = torch.tensor(correct)
    return Scored(
        advantage_N=torch.arange(len(groups)).double() / 7,
        score_N=2 * correct_N.float() - 1,
        correct_N=correct_N,
        length_N=torch.ones(len(groups)),
        num_tokens_N=torch.ones(len(groups)),
        group_N=torch.tensor(groups),
        info_N=[{}] * len(groups),
        progress_N=torch.tensor(progress).double(),
    )


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.integers(0, 3)), min_size=1))
def test_advantages_are_those_of_the_equation(batch):
    correct, progress, groups = map(list, zip(*batch, strict=True))
    groups = [sorted(set(groups)).index(group) for group in groups]
    given_rows = rows(correct, progress, groups)
    for by_std in (True, False):
        found, metrics = Sgpo(SETTINGS, by_std)(given_rows)
        graded = 0
        for i, group in enumerate(groups):
            own = [j for j, other in enumerate(groups) if other == group]
            expected = i / 7
            if not any(correct[j] for j in own):
                graded += 1
                reward = {j: 1 / (1 + math.exp(5.0 * (0.5 - progress[j]))) for j in own}
                expected = reward[i] - fmean(reward.values())
                if by_std:
                    expected /= (stdev(reward.values()) if len(own) > 1 else 0) + 1e-6
                else:
                    expected *= 2.0
                if len({progress[j] for j in own}) == 1:
                    expected = 0.0
            assert found[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert metrics["graded"] == pytest.approx(graded / len(groups))


def test_more_steps_right_are_rewarded_more():
    found, metrics = Sgpo(SETTINGS)(rows([False] * 3, [0.0, 0.9, 0.4], [0] * 3))
    assert found[1] > found[2] > found[0]
    assert metrics == {"graded": 1.0, "progress": pytest.approx(1.3 / 3)}


def test_a_group_with_a_response_that_has_no_verdict_stays_as_it_is():
    given_rows = rows([False] * 4, [0.2, math.nan, 0.1, 0.6], [0, 0, 1, 1])
    found, metrics = Sgpo(SETTINGS)(given_rows)
    assert found[:2].tolist() == given_rows.advantage_N[:2].tolist()
    assert found[3] > 0 > found[2]
    assert metrics["graded"] == 0.5
