import math

import pytest
import torch

from recipe.maths.learned import LearnedScalar, ScalarSettings


def scalar(**settings):
    given = {"start": 0.25, "spread": 0.1, "optimizer": "sgd", "lr": 0.1} | settings
    return LearnedScalar(ScalarSettings(**given))


def test_it_moves_against_the_slope_of_the_loss():
    learned = scalar()
    learned.step(2.0)
    assert learned.value == pytest.approx(0.25 - 0.1 * 2.0)


def test_a_slope_that_is_not_finite_moves_nothing():
    learned = scalar()
    learned.step(math.nan)
    assert learned.value == 0.25


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_scalar_goes_on_as_if_it_had_never_stopped(optimizer, tmp_path):
    slopes = torch.randn(6, generator=torch.Generator().manual_seed(0)).tolist()
    straight, stopped = scalar(optimizer=optimizer), scalar(optimizer=optimizer)
    for slope in slopes:
        straight.step(slope)
    for slope in slopes[:3]:
        stopped.step(slope)
    stopped.save(tmp_path / "global_step_3")
    resumed = scalar(optimizer=optimizer, start=9.0)
    resumed.load(tmp_path / "global_step_3")
    for slope in slopes[3:]:
        resumed.step(slope)
    assert resumed.value == straight.value


def test_a_resumed_scalar_follows_the_learning_rate_of_its_settings(tmp_path):
    scalar(lr=0.1).save(tmp_path)
    resumed = scalar(lr=0.01)
    resumed.load(tmp_path)
    resumed.step(1.0)
    assert resumed.value == pytest.approx(0.25 - 0.01)


@pytest.mark.parametrize(("saved", "now"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_another_optimizer_than_the_saved_one_is_refused(saved, now, tmp_path):
    scalar(optimizer=saved).save(tmp_path)
    with pytest.raises(ValueError, match=f"saved with aggregation.scalar.optimizer={saved}"):
        scalar(optimizer=now).load(tmp_path)


def test_a_checkpoint_of_another_rule_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not saved under the rule lambda"):
        scalar().load(tmp_path)
