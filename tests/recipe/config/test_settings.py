import pytest
import torch
from batches import fixed_batch

from recipe.config.settings import AggregationSettings, ScalarSettings
from recipe.maths.rules import RULES

SCALAR = {"start": 0.0, "spread": 0.1, "optimizer": "sgd", "lr": 0.1}


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match="'balance'; known rules are balanced, constant, lambda, seq"
    ):
        AggregationSettings("balance", 1024)


def test_a_length_that_is_no_length_is_refused():
    with pytest.raises(ValueError, match="constant_length is 0"):
        AggregationSettings("constant", 0)


def test_the_constant_is_bound_to_the_rule():
    weights = AggregationSettings("constant", 50).rules()["constant"](*fixed_batch())
    torch.testing.assert_close(weights, torch.full((12,), 1 / 50).double())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; known ones are sgd, adamw"),
        ({"lr": 0}, "lr is 0, but must be a number above 0"),
        ({"lr": None}, "lr is None, but must be a number above 0"),
        ({"spread": -1}, "spread is -1, but must be a number above 0"),
        ({"start": "low"}, "start is low, but must be a number"),
    ],
)
def test_a_scalar_that_cannot_learn_is_refused(change, found):
    with pytest.raises(ValueError, match=found):
        ScalarSettings(**SCALAR | change)


@pytest.mark.parametrize(
    ("rule", "scalar"), [("lambda", None), ("token", ScalarSettings(**SCALAR))]
)
def test_a_scalar_belongs_to_the_rule_that_learns_it(rule, scalar):
    with pytest.raises(ValueError, match="Choose aggregation=lambda, which sets both"):
        AggregationSettings(rule, 50, scalar=scalar)


def test_only_a_trained_lambda_is_among_the_rules():
    assert "lambda" not in AggregationSettings("token", 50).rules()
    settings = AggregationSettings("lambda", 50, scalar=ScalarSettings(**SCALAR))
    close = torch.testing.assert_close
    batch = fixed_batch()
    close(settings.rules()["lambda"](*batch), settings.rules()["token"](*batch))
    expected = RULES["lambda"](*batch, exponent=-2.0, spread=0.1)
    close(settings.rules(-2.0)["lambda"](*batch), expected)
