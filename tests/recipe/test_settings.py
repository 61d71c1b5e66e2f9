import pytest
import torch
from batches import fixed_batch

from recipe.settings import AggregationSettings


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'balance'; known rules are balanced, constant, sequence"):
        AggregationSettings("balance", 1024)


def test_a_length_that_is_no_length_is_refused():
    with pytest.raises(ValueError, match="constant_length is 0"):
        AggregationSettings("constant", 0)


def test_the_constant_is_bound_to_the_rule():
    weights = AggregationSettings("constant", 50).rules()["constant"](*fixed_batch())
    torch.testing.assert_close(weights, torch.full((12,), 1 / 50).double())
