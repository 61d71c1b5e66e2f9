"""Every experiment composes with every rule, and verl itself accepts the result."""

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from recipe import embedded
from recipe.aggregation import RULES
from recipe.checks import check_settings
from reward.sources import RewardSettings

CONFIGS = Path(__file__).parents[1] / "configs"


def names(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def test_there_is_a_config_for_each_rule():
    assert names("aggregation") == sorted(RULES)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("experiment", names("experiment"))
def test_an_experiment_composes_and_validates(experiment, rule, composed):
    config = composed(f"aggregation={rule}", experiment=experiment)
    OmegaConf.resolve(config)
    assert config.aggregation.rule == rule
    assert config.algorithm.norm_adv_by_std_in_grpo is (rule != "constant")
    config.actor_rollout_ref.model.path = None
    validate_config(config, need_reference_policy(config), need_critic(config))


def test_a_seed_reaches_every_place_that_draws(composed):
    config = composed("seed=7")
    places = (
        "data.seed",
        "actor_rollout_ref.rollout.seed",
        "actor_rollout_ref.actor.data_loader_seed",
        "actor_rollout_ref.actor.fsdp_config.seed",
    )
    assert [OmegaConf.select(config, place) for place in places] == [7] * 4


def test_the_two_regimes_are_a_choice_of_data(composed):
    tasks = [
        composed(f"data=arithmetic_{task}").data.task for task in ("length_gap", "length_spread")
    ]
    assert tasks == ["length_gap", "length_spread"]
    assert embedded.folder(tasks[0]) != embedded.folder(tasks[1])


def test_the_reward_settings_of_the_config_are_the_defaults_of_the_command(composed):
    given = OmegaConf.to_container(composed().reward.custom_reward_function.reward_kwargs)
    assert RewardSettings.of(given) == RewardSettings()
    assert set(given) == {field.name for field in fields(RewardSettings)}


@pytest.mark.parametrize("rules", names("rewards"))
def test_published_reward_rules_are_a_choice(rules, composed):
    config = composed(f"rewards={rules}")
    validate_config(
        config=config,
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )
    check_settings(composed(f"rewards={rules}", "data.max_response_length=20480"))
    kwargs = config.reward.custom_reward_function.reward_kwargs
    assert (kwargs.thinking == "require") == kwargs.asked_form_only == (rules == "polaris")
    assert config.reward.reward_manager.name == ("dapo" if rules == "dapo" else "naive")
