import pytest

from recipe.base.errors import UserError
from recipe.config.checks import check_config
from scripts.jobs.sweep import SWEEPS, Grid, choices, plan


def test_a_sweep_is_over_advantages_and_objectives_as_well():
    arms = ("token+ha_dw", "balanced+gdpo_token", "disco_logl")
    runs = plan(Grid(("cpu_demo",), arms, (0,)), [])
    assert [run.name for run in runs] == [f"cpu_demo.{arm}-s0" for arm in arms]
    assert {"aggregation=token", "advantage=ha_dw"} <= set(runs[0].arguments)
    assert "objective=disco_logl" in runs[2].arguments
    assert runs[2].config.aggregation.rule is None
    for run in runs:
        check_config(run.config)


def test_a_method_whose_parts_do_not_go_together_is_refused_with_the_reason():
    [run] = plan(Grid(("cpu_demo",), ("disco_logl+ha_dw",), (0,)), [])
    with pytest.raises(
        UserError, match=r"advantage\.name is ha_dw and does not go with objective=disco"
    ):
        check_config(run.config)
    with pytest.raises(UserError, match="no config aggregation/policy_gradient"):
        plan(Grid(("cpu_demo",), ("policy_gradient",), (0,)), [])


def test_a_run_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match=r"has cpu_demo\.balanced-s0 twice"):
        plan(Grid(("cpu_demo",), ("balanced",), (0, 0)), [])


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_a_kept_sweep_can_be_read(name):
    assert list(Grid.read(name).cells())


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("token+opo+bapo", ["aggregation=token", "advantage=opo", "objective=bapo"]),
        ("luspo", ["preset=luspo"]),
        ("disco_logl", ["objective=disco_logl"]),
    ],
)
def test_the_parts_of_a_method_are_found_in_their_groups(method, overrides):
    assert choices(method) == overrides
