"""Conflict runs beside their definition, and the factors beside those of the public code."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.maths.conflict import GtpoSettings, conflict_runs, run_lengths, token_factors

TEXT = GtpoSettings(positive=2.0, negative=0.0, as_code=False)
CODE = GtpoSettings(positive=2.0, negative=0.0, as_code=True)


def run_of(i, tokens, positive):
    """The longest stretch in which each token is at this place in a response of the other sign."""
    length = 0
    for place, token in enumerate(tokens[i]):
        others = [j for j in range(len(tokens)) if positive[j] != positive[i]]
        if not any(place < len(tokens[j]) and tokens[j][place] == token for j in others):
            break
        length += 1
    return length


groups = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.booleans()),
    min_size=1,
    max_size=6,
)


@given(groups)
def test_runs_are_those_of_the_definition(group):
    tokens, positive = map(list, zip(*group, strict=True))
    expected = [run_of(i, tokens, positive) for i in range(len(tokens))]
    assert run_lengths(tokens, positive) == expected


def test_groups_and_both_ends_are_apart_and_advantages_of_0_are_in_no_conflict():
    tokens = [[1, 2, 3, 9], [1, 2, 4, 5, 9], [1, 2, 3, 9], [1, 7], [1, 7]]
    advantage = torch.tensor([1.0, -1.0, 0.0, 1.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1])
    first, last = conflict_runs([torch.tensor(row) for row in tokens], advantage, group)
    assert first.tolist() == [2, 2, 0, 0, 0]
    assert last.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("settings", "is_positive", "expected"),
    [
        (TEXT, True, [2, 2, 1, 2]),
        (TEXT, False, [0, 0, 1, 0]),
        (CODE, True, [2, 2, 1, 2]),
    ],
)
def test_factors_of_tokens(settings, is_positive, expected):
    assert token_factors(4, 2, 1, is_positive, settings).tolist() == expected


def test_where_both_runs_overlap_the_code_takes_the_factor_twice():
    assert token_factors(4, 3, 2, True, TEXT).tolist() == [2, 2, 2, 2]
    assert token_factors(4, 3, 2, True, CODE).tolist() == [2, 2, 4, 2]
    assert token_factors(3, 3, 3, False, CODE).tolist() == [0, 0, 0]
    assert token_factors(3, 0, 0, True, CODE).tolist() == [1, 1, 1]
