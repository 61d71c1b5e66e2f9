"""BAPO's search for bounds beside the loop that the paper and its code describe."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths.bapo import BapoSettings, chosen_bounds, contributions, steps
from recipe.maths.estimators import ADVANTAGES, Rows
from recipe.maths.rules import RULES

SECTION = {
    "target": 0.5,
    "lower_start": 0.6,
    "lower_end": 0.9,
    "lower_step": 0.05,
    "upper_start": 1.2,
    "upper_end": 3.0,
    "upper_step": 0.25,
    "first": "lower",
    "measure": "tokens",
    "scope": "mini_batch",
}


def settings(**changes):
    return parse(BapoSettings, SECTION | changes, "objective.bapo")


def searched(tokens, s):
    """Raise one bound after the other, and add all tokens up anew at each step."""

    def share(low, high):
        pos = sum(m * min(r, high) * a for r, a, m in tokens if a > 0)
        neg = sum(m * max(r, low) * -a for r, a, m in tokens if a < 0)
        return pos / (pos + neg) if pos + neg else 1.0

    low, high = s.lower_start, s.upper_start

    def raise_lower():
        nonlocal low
        while share(low, high) < s.target and low < s.lower_end - 1e-9:
            low = min(low + s.lower_step, s.lower_end)

    def raise_upper():
        nonlocal high
        while share(low, high) < s.target and high < s.upper_end - 1e-9:
            high = min(high + s.upper_step, s.upper_end)

    order = [raise_lower, raise_upper]
    for one in order if s.first == "lower" else order[::-1]:
        one()
    return low, high, share(low, high)


token = st.tuples(
    st.floats(0.05, 5), st.sampled_from([1.5, 1.0, 0.0, -1.0, -0.5]), st.floats(0.1, 2)
)


@given(st.lists(token, min_size=1, max_size=30), st.sampled_from(["lower", "upper"]))
def test_the_bounds_are_those_of_the_loop(tokens, first):
    s = settings(first=first)
    columns = [torch.tensor(column).double() for column in zip(*tokens, strict=True)]
    found = chosen_bounds(contributions(*columns, s), s)
    low, high, share = searched(tokens, s)
    # Where a share is at the target but for rounding, either answer is right.
    if abs(share - s.target) > 1e-9 and abs(found.share - s.target) > 1e-9:
        assert (found.lower, found.upper) == pytest.approx((low, high))
        assert found.share == pytest.approx(share)


@given(st.lists(token, min_size=2, max_size=30), st.integers(1, 29))
def test_contributions_of_parts_add_up(tokens, cut):
    s = settings()
    columns = [torch.tensor(column).double() for column in zip(*tokens, strict=True)]
    parts = [contributions(*(c[part] for c in columns), s) for part in (slice(cut), slice(cut, 99))]
    torch.testing.assert_close(sum(parts), contributions(*columns, s))


def at_ratio_1(rule=None):
    """Correct responses of 10 and 20 tokens, incorrect ones of 60 and 30."""
    length = torch.tensor([10, 20, 60, 30])
    rows = Rows(length, torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.zeros(4, dtype=torch.long))
    advantage = ADVANTAGES["std"](rows)
    weight = RULES[rule](length, advantage, rows.group_N) if rule else torch.ones(4)
    columns = (torch.ones(120), advantage.repeat_interleave(length))
    return contributions(*columns, weight.repeat_interleave(length), settings())


def test_at_ratio_1_the_balance_of_a_group_is_the_ratio_of_mean_lengths():
    share = chosen_bounds(at_ratio_1(), settings()).share_start
    assert share / (1 - share) == pytest.approx(15 / 45)


def test_under_balanced_weights_both_signs_contribute_alike_and_no_bound_moves():
    found = chosen_bounds(at_ratio_1("balanced"), settings(target=0.5 - 1e-9))
    assert found.share == pytest.approx(0.5)
    assert (found.lower, found.upper) == (0.6, 1.2)
    other = chosen_bounds(at_ratio_1("token"), settings())
    assert (other.lower, other.upper) == (0.9, 3.0)


def test_a_bound_ends_exactly_where_it_is_told_to():
    assert steps(0.6, 0.9, 0.1) == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert steps(1.0, 1.25, 0.1) == pytest.approx([1.0, 1.1, 1.2, 1.25])
    assert steps(1.0, 1.0, 0.1) == [1.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lower_end": 0.5}, "lower_end is 0.5, but the bound starts at 0.6"),
        ({"upper_step": 1e-4}, "makes 18000 steps from 1.2 to 3"),
        ({"target": 1}, "target is 1, but must be less than 1"),
        ({"measure": "loss"}, "measure is \"loss\", but must be 'tokens'"),
        ({"epsilon": 1}, "no key objective.bapo.epsilon"),
    ],
)
def test_bounds_that_cannot_be_searched_are_refused(changes, said):
    with pytest.raises(UserError) as error:
        settings(**changes)
    assert said in str(error.value)
