from math import nan

import pytest

from recipe.analysis.bootstrap import Estimate
from recipe.analysis.counterfactual import Analysis
from recipe.analysis.findings import findings, number
from recipe.maths.rules import RULES

ZERO = Estimate(0.0, 0.0, 0.0)
RUN = {
    "objective_share_negative/token_batch": Estimate(0.63, 0.61, 0.65),
    "objective_share_negative/balanced": Estimate(0.5, 0.5, 0.5),
    "excess/balanced": Estimate(0.13, 0.11, 0.15),
    "moved/balanced": Estimate(0.2, 0.19, 0.21),
    "moved/sequence": Estimate(0.3, 0.29, 0.31),
    "length_variation": Estimate(0.4, 0.38, 0.42),
    "length_gap": Estimate(0.5, 0.45, 0.55),
    "moved_by_gap": Estimate(0.12, 0.10, 0.14),
    "moved_by_variation": Estimate(0.08, 0.07, 0.09),
    "gap_over_variation": Estimate(0.04, 0.02, 0.06),
}
STEPS = {
    1: {"excess/balanced": Estimate(0.05, -0.02, 0.1)},
    40: {"excess/balanced": Estimate(0.2, 0.15, 0.25)},
    41: {"excess/balanced": Estimate(nan, nan, nan)},
}


def said(steps=STEPS, **changed):
    run = {f"moved/{name}": ZERO for name in RULES}
    run |= {f"signal_over_noise/{name}": Estimate(1.0, 0.9, 1.1) for name in RULES}
    run |= RUN | changed
    return findings(Analysis(run, {}, steps, "token_batch", list(RULES), 8, 2, 2))


def test_the_answer_names_shares_difference_and_when():
    signs, moves, regime, _ = said()
    assert signs == (
        "Under `token_batch`, taken as the rule of this run, negative responses had 63.0% "
        "[61.0, 65.0] of the objective; `balanced` would have given them 50.0% [50.0, 50.0]. The "
        "difference is +13.0 [11.0, 15.0] points. It was largest at step 40 (+20.0 [15.0, 25.0]; "
        "the extreme of 2 noisy values), and at 1 of 2 steps its interval leaves out 0."
    )
    assert "`sequence` 30.0% [29.0, 31.0], `balanced` 20.0% [19.0, 21.0]" in moves
    assert "negative responses are longer than positive ones by 50.0% [45.0, 55.0]" in regime
    assert regime.endswith("finds `sequence` relatively better than `token`.")


def test_a_difference_whose_interval_holds_zero_is_not_called_one():
    signs = said(**{"excess/balanced": Estimate(0.01, -0.01, 0.03)})[0]
    assert "+1.0 [-1.0, 3.0] points is not told from none" in signs and "largest" not in signs
    assert said(**{"excess/balanced": ZERO})[0].endswith("the two rules do the same here.")


def test_the_order_by_noise_comes_with_what_lengths_cannot_tell():
    found = said(**{"signal_over_noise/balanced": Estimate(1.4, 1.3, 1.5)})[3]
    assert "would be: `balanced` 1.40 [1.30, 1.50], `" in found
    assert found.endswith("`python -m recipe.probe estimator` measures both on a model.")
    nothing = said(**{"signal_over_noise/balanced": Estimate(nan, nan, nan)})[3]
    assert nothing.startswith("No group holds both signs")


def test_one_step_has_no_largest():
    assert said(steps={1: STEPS[1]})[0].endswith("There is one step only.")


def test_a_run_that_no_rule_would_have_changed_is_said_to_be_one():
    changed = {f"moved/{name}": ZERO for name in RULES}
    assert said(**changed)[1].startswith("No other rule would have changed this run")
    nothing = said(**{"objective_share_negative/token_batch": Estimate(nan, nan, nan)})
    assert len(nothing) == 1 and "every advantage is 0" in nothing[0]


@pytest.mark.parametrize(
    "larger, end",
    [
        (Estimate(-0.04, -0.06, -0.02), "finds `token` relatively better than `sequence`."),
        (Estimate(0.01, -0.01, 0.03), "between the two regimes of arXiv:2605.04077."),
        (Estimate(0.04, nan, nan), "between the two regimes of arXiv:2605.04077."),
        (ZERO, "in neither regime of arXiv:2605.04077."),
    ],
)
def test_the_regime_is_that_of_the_larger_move_if_its_interval_says_so(larger, end):
    assert said(gap_over_variation=larger)[2].endswith(end)


def test_a_gap_to_the_other_side_is_said_so():
    regime = said(length_gap=Estimate(-0.3, -0.4, -0.2))[2]
    assert "negative responses are shorter than positive ones by 30.0% [20.0, 40.0]" in regime
    assert "No group holds both signs" in said(length_gap=Estimate(nan, nan, nan))[2]


def test_a_number_carries_its_interval_if_there_is_one():
    assert number(Estimate(-0.3, -0.4, -0.2), digits=2, sign="+") == "-0.30 [-0.40, -0.20]"
    assert number(Estimate(-1e-9, nan, nan), scale=100, unit="%") == "0.0%"
    assert number(Estimate(nan, nan, nan)) == "-"
