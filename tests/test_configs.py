"""Every experiment composes with every rule, and verl itself accepts the result."""

from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from recipe.config.checks import check_config, check_settings
from recipe.estimate.memory import memory
from recipe.estimate.shapes import KNOWN
from recipe.maths.rules import RULES
from recipe.run.folder import differing_keys
from recipe.tasks import embedded
from reward.sources import RewardSettings

CONFIGS = Path(__file__).parents[1] / "configs"


def names(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def test_there_is_a_config_for_each_rule():
    assert names("aggregation") == sorted([*RULES, "none"])


PAPER = [name for name in names("experiment") if name.endswith(("_dapo_17k", "_polaris"))]
GPU_CLUSTERS = [name for name in names("cluster") if name.startswith("gpu8")]
# What the arms of an experiment may differ in.
STUDIED = ("aggregation.rule", "aggregation.scalar", "algorithm.norm_adv_by_std_in_grpo")
# What follows from the length that a model allows.
LENGTHS = ("response_length", "max_model_len", "constant_length")


@pytest.fixture(scope="module")
def once(composed):
    """A composed and resolved config, kept: composing takes most of a second."""

    @cache
    def run(experiment, *overrides):
        config = composed(*overrides, experiment=experiment)
        OmegaConf.resolve(config)
        return config

    return run


def validate(config):
    validate_config(config, need_reference_policy(config), need_critic(config))
    check_config(config)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("experiment", names("experiment"))
def test_an_experiment_composes_and_validates(experiment, rule, once):
    config = once(experiment, f"aggregation={rule}")
    assert config.aggregation.rule == rule
    assert config.algorithm.norm_adv_by_std_in_grpo is (rule != "constant")
    validate(config)
    differing = differing_keys(config, once(experiment, "aggregation=balanced"), limit=100)
    assert all(key.startswith(STUDIED) for key in differing)


@pytest.mark.parametrize("cluster", GPU_CLUSTERS)
@pytest.mark.parametrize("experiment", PAPER)
def test_a_cell_of_the_paper_fits_and_validates_on_every_cluster(experiment, cluster, once):
    config = once(experiment, f"cluster={cluster}")
    assert config.trainer.n_gpus_per_node * config.trainer.nnodes == 8 * int(
        cluster.partition("x")[2] or 1
    )
    assert memory(config).problems == []
    # A rule and a cluster set no key in common, so that a cell with both is the two together.
    for rule in RULES:
        arm, both = once(experiment, f"aggregation={rule}"), deepcopy(config)
        for key in STUDIED:
            OmegaConf.update(both, key, OmegaConf.select(arm, key), force_add=True)
        validate(both)
    moved = differing_keys(config, once(experiment, "aggregation=balanced"), limit=100)
    assert set(moved) <= {"trainer.nnodes"}


@pytest.mark.parametrize("experiment", PAPER)
def test_a_cell_of_the_paper_gives_a_whole_sequence_its_place(experiment, once):
    config = once(experiment, "aggregation=balanced")
    section, longest = config.actor_rollout_ref, OmegaConf.select(config, "data.max_prompt_length")
    longest += config.data.max_response_length
    assert longest == section.rollout.max_model_len
    assert longest <= KNOWN[section.model.path]["max_position_embeddings"]
    assert longest <= section.actor.ppo_max_token_len_per_gpu
    assert longest <= section.rollout.log_prob_max_token_len_per_gpu
    assert config.aggregation.constant_length == config.data.max_response_length
    # verl deletes the oldest checkpoint before it writes the next.
    assert config.trainer.max_actor_ckpt_to_keep >= 2


def test_the_cells_differ_in_model_and_data_alone(once):
    """What a cell is called and trained on, and the lengths that its model allows."""
    configs = [once(experiment, "aggregation=balanced") for experiment in PAPER]
    differing = {key for one in configs for key in differing_keys(one, configs[0], limit=100)}
    lengths = {key for key in differing if key.endswith(LENGTHS)}
    assert differing - lengths == {
        "experiment_name",
        "actor_rollout_ref.model.path",
        "actor_rollout_ref.rollout.prometheus.served_model_name",
        "data.apply_chat_template_kwargs.enable_thinking",
    }
    # Files are no part of what a run is known by: a checkpoint knows their contents.
    trained_on = [Path(one.data.train_files).stem for one in configs]
    assert trained_on == [name.partition("7b_")[2] for name in PAPER]


def test_the_command_line_wins_over_the_experiment(composed):
    choices = ["cluster=gpu8x2", "aggregation=token", "model=qwen25_math_7b", "logging=wandb"]
    values = ["data.train_batch_size=64", "data.max_response_length=2048", "data_root=/elsewhere"]
    config = composed(*choices, *values, experiment="qwen3_1_7b_polaris")
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (2, 8)
    assert config.aggregation.rule == "token"
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-Math-7B"
    assert config.trainer.logger == ["console", "file", "wandb"]
    assert config.data.train_batch_size == 64
    assert config.actor_rollout_ref.rollout.max_model_len == 1024 + 2048
    assert config.data.train_files == "/elsewhere/polaris.parquet"


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
    # DAPO's punishment begins 4,096 tokens before the limit, which its responses are longer than.
    budgets = ("actor.ppo_max_token_len_per_gpu", "rollout.log_prob_max_token_len_per_gpu")
    longest = [f"actor_rollout_ref.{key}=20544" for key in budgets]
    check_settings(composed(f"rewards={rules}", "data.max_response_length=20480", *longest))
    kwargs = config.reward.custom_reward_function.reward_kwargs
    assert (kwargs.thinking == "require") == kwargs.asked_form_only == (rules == "polaris")
    assert config.reward.reward_manager.name == ("dapo" if rules == "dapo" else "naive")
