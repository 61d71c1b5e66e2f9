import pytest

from recipe.base.errors import UserError
from recipe.estimator.pilot import needed_prompts, pilot_of
from recipe.estimator.report import DECISIVE
from tests.recipe.estimator.test_probe import SMALL


def result(*widths):
    names = ("token", *(f"rule{i}" for i in range(len(widths))))
    rules = zip(names, (0.0, *widths), strict=True)
    return {
        "options": {"prompts": 64, "batch_groups": 8, "baseline": "token"},
        "rules": {name: {DECISIVE: {"difference_half_width": width}} for name, width in rules},
    }


def test_half_the_width_needs_four_times_the_prompts():
    said = []
    assert needed_prompts(result(0.02, 0.04), 0.02, said.append) == 256
    assert said == ["pilot: half width 0.040 with 64 prompts, so 256 prompts for 0.02"]


def test_batches_are_full_and_there_are_four_at_least():
    assert needed_prompts(result(0.04), 0.039, lambda _: None) == 72
    assert needed_prompts(result(0.04), 10.0, lambda _: None) == 32


def test_a_pilot_that_tells_nothing_is_refused():
    with pytest.raises(UserError, match="so no number of prompts follows from it"):
        needed_prompts(result(None), 0.02, lambda _: None)


def test_a_pilot_shares_no_seed_with_its_probe_and_takes_no_step():
    pilot = pilot_of(SMALL)
    assert (pilot.prompts, pilot.step_batches, pilot.fresh) == (32, 0, 0)
    assert pilot.seed != SMALL.seed
