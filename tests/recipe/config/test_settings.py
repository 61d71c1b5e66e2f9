import pytest
import torch
from batches import fixed_batch

from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths.aggregation import AggregationSettings
from recipe.maths.learned import ScalarSettings
from recipe.maths.rules import MICRO, RULES

SCALAR = {"start": 0.0, "spread": 0.1, "optimizer": "sgd", "lr": 0.1}


def aggregation(**section):
    return parse(
        AggregationSettings, {"rule": "token", "constant_length": 50} | section, "aggregation"
    )


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(
        UserError,
        match="'balance'; known rules are balanced, balanced_batch, balanced_batch_w",
    ):
        aggregation(rule="balance")


def test_a_length_of_zero_is_refused():
    with pytest.raises(UserError, match=r"constant_length is 0, but must be greater"):
        aggregation(constant_length=0)


def test_a_key_that_nothing_reads_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"no key aggregation\.mask_trunc\. The nearest is mask_trunca"
    ):
        aggregation(mask_trunc=True)
    with pytest.raises(
        UserError, match=r"aggregation\.rule is missing.* keys rule, constant_length"
    ):
        parse(AggregationSettings, {"constant_length": 50}, "aggregation")


def test_the_constant_is_bound_to_the_rule():
    weights = AggregationSettings("constant", 50).rules()["constant"](*fixed_batch())
    torch.testing.assert_close(weights, torch.full((12,), 1 / 50).double())


def test_the_positive_factor_multiplies_what_correct_responses_get_under_every_rule():
    """W-REINFORCE is 0.1, and 0 is its NSR, which learns from incorrect responses only."""
    length, advantage, group = fixed_batch()
    scalar = ScalarSettings(**SCALAR)
    plain = AggregationSettings("lambda", 50, scalar=scalar).rules()
    for factor in (0.1, 0.0):
        scaled = AggregationSettings("lambda", 50, positive_factor=factor, scalar=scalar).rules()
        assert scaled.keys() == plain.keys() == RULES.keys() - {MICRO}
        for name, rule in plain.items():
            expected = [
                weight * (factor if a > 0 else 1)
                for weight, a in zip(
                    rule(length, advantage, group).tolist(), advantage.tolist(), strict=True
                )
            ]
            assert scaled[name](length, advantage, group).tolist() == pytest.approx(expected)


def test_a_positive_factor_without_a_rule_is_refused():
    with pytest.raises(ValueError, match=r"positive_factor is 0\.1, but this objective has no agg"):
        AggregationSettings(None, 50, positive_factor=0.1)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"optimizer": "lion"}, "optimizer is \"lion\", but must be 'sgd' or 'adamw'"),
        ({"lr": 0}, "lr is 0, but must be greater than 0"),
        ({"lr": None}, "lr is null, but must be a valid number"),
        ({"spread": -1}, "spread is -1, but must be greater than 0"),
        ({"start": "low"}, 'start is "low", but must be a valid number'),
        ({"momentum": 1}, "no key aggregation.scalar.momentum. Known keys are start, spread"),
    ],
)
def test_a_scalar_that_cannot_learn_is_refused(change, found):
    with pytest.raises(UserError, match=found):
        aggregation(rule="lambda", scalar=SCALAR | change)


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
