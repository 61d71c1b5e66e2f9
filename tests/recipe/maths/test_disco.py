"""DisCO's slopes and value, beside the objective as the paper writes it, differentiated."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths.disco import DiscoSettings, kl_terms, scores, slopes

SETTINGS = {"score": "log_likelihood", "tau": 10.0, "kl_limit": 1e-4, "kl_penalty": 1e3, "kl": "k1"}


def reference(score_N, correct_N, group_N, tau):
    """J, group by group: arXiv:2505.12366, and DisCO-b where tau is infinite."""
    groups = sorted({g for g in group_N.tolist() if g >= 0})
    terms = []
    for group in groups:
        correct = [
            s for s, r, g in zip(score_N, correct_N, group_N, strict=True) if g == group and r
        ]
        incorrect = [
            s for s, r, g in zip(score_N, correct_N, group_N, strict=True) if g == group and not r
        ]
        if correct and incorrect:
            if math.isinf(tau):
                against = sum(incorrect) / len(incorrect)
            else:
                against = tau * torch.log(
                    sum(torch.exp(s / tau) for s in incorrect) / len(incorrect)
                )
            terms.append(sum(correct) / len(correct) - against)
    return sum(terms, torch.tensor(0.0).double()) / max(len(groups), 1)


@st.composite
def mini_batches(draw):
    num = draw(st.integers(1, 24))
    group_N = torch.tensor(draw(st.lists(st.integers(-1, 4), min_size=num, max_size=num)))
    correct_N = torch.tensor(draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    score = st.floats(-8, 3, allow_nan=False)
    score_N = torch.tensor(draw(st.lists(score, min_size=num, max_size=num))).double()
    tau = draw(st.sampled_from([0.05, 1.0, 10.0, math.inf]))
    return score_N, correct_N, group_N, tau


@given(mini_batches())
def test_value_and_slopes_are_those_of_the_objective(batch):
    score_N, correct_N, group_N, tau = batch
    at = score_N.clone().requires_grad_()
    expected = reference(at, correct_N, group_N, tau)
    slope = torch.zeros_like(score_N)
    if expected.requires_grad:
        [slope] = torch.autograd.grad(expected, at)
    value, slope_N = slopes(score_N, correct_N, group_N, tau)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slope_N, slope, rtol=1e-9, atol=1e-9)


def test_groups_of_one_verdict_add_nothing_and_count():
    """The paper divides by all questions, and its sum is over those with both."""
    score_N = torch.tensor([-1.0, -3.0, -2.0, -2.5]).double()
    correct_N = torch.tensor([True, False, True, True])
    value, slope_N = slopes(score_N, correct_N, torch.tensor([0, 0, 1, 1]), math.inf)
    assert value.item() == (-1 + 3) / 2
    assert slope_N.tolist() == [0.5, -0.5, 0, 0]


def test_disco_weighs_the_wrong_responses_by_their_scores_and_disco_b_alike():
    score_N = torch.tensor([0.0, -1.0, -2.0]).double()
    correct_N, group_N = torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.long)
    hard = slopes(score_N, correct_N, group_N, 1.0)[1]
    assert hard[1] / hard[2] == pytest.approx(math.e)
    assert slopes(score_N, correct_N, group_N, math.inf)[1].tolist() == [1.0, -0.5, -0.5]


def test_many_temperatures_tend_to_disco_b():
    score_N = torch.tensor([0.0, -1.0, -2.0]).double()
    correct_N, group_N = torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.long)
    at = [slopes(score_N, correct_N, group_N, tau) for tau in (1e6, math.inf)]
    for found, expected in zip(*at, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_far_apart_scores_stay_finite():
    score_N = torch.tensor([-400.0, -1.0, -900.0]).double()
    correct_N, group_N = torch.tensor([True, False, False]), torch.zeros(3, dtype=torch.long)
    value, slope_N = slopes(score_N, correct_N, group_N, 0.5)
    assert value.item() == pytest.approx(-400 - (-1 + 0.5 * math.log(0.5)))
    assert slope_N.tolist() == [1.0, -1.0, 0.0]


def test_scores_are_means_over_trained_tokens():
    log_prob_NT = torch.tensor([[-1.0, -3.0, -9.0], [-2.0, 0.0, 0.0]])
    old_NT = torch.tensor([[-1.0, -2.0, -5.0], [-2.5, 0.0, 0.0]])
    mask_NT = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert scores(log_prob_NT, old_NT, mask_NT, "log_likelihood").tolist() == [-2.0, 0.0]
    ratio_N = scores(log_prob_NT, old_NT, mask_NT, "likelihood_ratio")
    assert ratio_N.tolist() == pytest.approx([(1 + math.exp(-1)) / 2, 0.0])


def test_both_kl_estimators_have_the_divergence_as_their_mean():
    old, new = torch.tensor([0.7, 0.2, 0.1]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    divergence = (old * (old / new).log()).sum()
    for kl in ("k1", "low_var"):
        found = (old * kl_terms(new.log(), old.log(), kl)).sum()
        torch.testing.assert_close(found, divergence)
    assert (kl_terms(new.log(), old.log(), "low_var") >= 0).all()


@pytest.mark.parametrize(
    "incorrect",
    [
        {"score": "logits"},
        {"kl": "k2"},
        {"tau": 0.0},
        {"tau": None},
        {"tau": math.nan},
        {"kl_limit": -1.0},
        {"kl_penalty": math.inf},
        {"kl_penalty": True},
    ],
)
def test_settings_that_mean_nothing_are_refused(incorrect):
    with pytest.raises(UserError, match=f"objective.disco.{next(iter(incorrect))} is"):
        parse(DiscoSettings, SETTINGS | incorrect, "objective.disco")
