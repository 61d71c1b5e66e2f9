import pytest
from batches import batches
from hypothesis import given

from recipe.probes.loss_value import closed_forms, correlations
from recipe.probes.stage import rules


@given(batches())
def test_closed_forms_are_the_weighted_mean_of_length_times_advantage(batch):
    found = closed_forms(*batch, limit=64.0)
    for name, value in found.items():
        columns = rules(64.0)[name](*batch), batch.length_N, batch.advantage_N
        rows = zip(*(column.tolist() for column in columns), strict=True)
        brute = -sum(weight * length * a for weight, length, a in rows) / len(batch.length_N)
        assert value == pytest.approx(brute, rel=1e-9, abs=1e-12)


def test_a_loss_that_is_rounding_has_no_correlation():
    def batch(correct, loss):
        return {
            "correct": correct,
            "rules": {"x": {"measured": loss}, "y": {"measured": 1e-9 * loss}},
        }

    found = correlations([batch(0.1, 1.0), batch(0.2, 0.5), batch(0.3, 0.0)])
    assert found["x"] == pytest.approx(-1.0) and found["y"] is None


@pytest.mark.slow
def test_the_engines_on_policy_loss_is_the_closed_form(probe):
    """In float32, relative to the loss without cancelling."""
    found = probe("loss_value", NUM_BATCHES=4, GROUPS_PER_BATCH=4)
    assert found["largest_deviation"] < 1e-6
    batches = found["batches"]
    assert len(batches) == 4 and len({batch["correct"] for batch in batches}) > 1
    for name in ("sequence", "balanced"):
        assert max(abs(batch["rules"][name]["measured"]) for batch in batches) < 1e-6
    for name in ("token", "token_batch", "constant", "lambda"):
        assert max(abs(batch["rules"][name]["measured"]) for batch in batches) > 1e-2
