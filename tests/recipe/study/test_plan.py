import pytest
import yaml
from studies import GIVEN

from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS
from recipe.study.plan import Run, Study


def written(path, **changes):
    path.write_text(yaml.safe_dump(GIVEN | changes, sort_keys=False))
    return path


@pytest.fixture
def study(tmp_path):
    return Study.read(written(tmp_path / "study.yaml"))


def result(run, area):
    return {**run._asdict(), "correct": [area, area]}


def test_a_cell_has_every_arm_at_every_rate_and_then_every_seed_at_the_best(study):
    selection = list(study.selection("one"))
    assert len(set(selection)) == 2 * 2 * 2
    assert {run.seed for run in selection} == {100, 101}
    # Of token the first rate has the larger mean, of balanced the second one.
    areas = {("token", 1e-4): 0.6, ("token", 2e-4): 0.5}
    areas |= {("balanced", 1e-4): 0.5, ("balanced", 2e-4): 0.6}
    rows = [result(run, areas[run.arm, run.learning_rate]) for run in selection]
    rates = study.rates("one", rows)
    assert rates == {"token": 1e-4, "balanced": 2e-4}
    comparison = list(study.comparison("one", rates))
    assert comparison == [
        Run("one", arm, rates[arm], seed) for seed in range(3) for arm in ("token", "balanced")
    ]
    assert study.num_runs == 2 * (len(selection) + len(comparison))


def test_rates_are_not_chosen_before_the_selection_is_complete(study):
    rows = [result(run, 0.5) for run in study.selection("one")]
    with pytest.raises(ValueError, match="has no result"):
        study.rates("one", rows[1:])


def test_runs_of_a_seed_differ_in_the_arm_alone(study):
    one, other = (study.config_overrides(Run("one", arm, 1e-4, 2)) for arm in ("token", "balanced"))
    assert set(one) ^ set(other) == {"aggregation=token", "aggregation=balanced"}
    assert "seed=2" in one


def test_seeds_that_chose_a_rate_are_not_compared_on(tmp_path):
    with pytest.raises(UserError, match=r"chooses learning rates on seeds .* Give other"):
        Study.read(written(tmp_path / "study.yaml", selection_seeds=[2, 3]))


def test_a_file_with_other_keys_is_refused(tmp_path):
    with pytest.raises(UserError, match="must have the keys arms, cells"):
        Study.read(written(tmp_path / "study.yaml", seed=3))
    with pytest.raises(UserError, match="there is no study"):
        Study.read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", sorted((CONFIGS / "study").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_studies_of_this_project_can_be_read(path):
    assert Study.read(path).num_runs > 0
