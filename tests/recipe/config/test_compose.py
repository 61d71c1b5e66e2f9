import pytest
from omegaconf import OmegaConf

from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS
from recipe.config.compose import composed
from recipe.config.groups import groups
from recipe.config.help import KEYS, help_text
from recipe.config.hydra_errors import check_choice, keys

DEMO = "+experiment=cpu_demo"


@pytest.mark.parametrize(
    ("overrides", "found", "nearest"),
    [
        (
            [DEMO, "trainer.total_trainingsteps=5"],
            "no key trainer.total_trainingsteps",
            "nearest known: trainer.total_training_steps.",
        ),
        ([DEMO, "rollout.n=4"], "no key rollout.n", ": actor_rollout_ref.rollout.n, reward."),
        ([DEMO, "lr=1e-5"], "no key lr", "actor_rollout_ref.actor.optim.lr"),
        ([DEMO, "aggregatio=balanced"], "no key aggregatio", "nearest known: aggregation."),
        ([DEMO, "zzzzz=1"], "no key zzzzz", "nearest known: none."),
        ([DEMO, "aggregation=balance"], "no config aggregation/balance", "nearest is balanced."),
        ([DEMO, "model=qwen3_17b"], "known ones are qwen25_math_7b", "nearest is qwen3_1_7b."),
        (["+experiment=qwen3_1_7b_dapo"], "experiment/qwen3_1_7b_dapo;", "qwen3_1_7b_dapo_17k."),
        (["experiment=cpu_demo"], "No match in the defaults list", "use +experiment=cpu_demo."),
        ([DEMO, "seed=[1"], "no viable alternative", "override_grammar"),
    ],
)
def test_what_is_wrong_is_answered_with_what_is_nearest(overrides, found, nearest):
    with pytest.raises(UserError) as error:
        composed(overrides)
    assert found in str(error.value)
    assert nearest in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_may_be_added_where_it_has_a_section():
    config = composed([DEMO, "+reward.custom_reward_function.reward_kwargs.sources.mine=polaris"])
    assert config.reward.custom_reward_function.reward_kwargs.sources == {"mine": "polaris"}


def test_a_key_of_its_own_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match=r"\+experiments would add a key .* nearest is experiment"):
        check_choice({"experiment": None}, ["+experiments=cpu_demo"])


def test_something_to_train_is_chosen_by_an_experiment_or_by_its_parts():
    check_choice({"experiment": "cpu_demo"}, [DEMO])
    check_choice({"model": "tiny", "cluster": "cpu"}, ["model=tiny", "cluster=cpu"])
    with pytest.raises(UserError, match="nothing was chosen to train"):
        check_choice({"model": "tiny", "cluster": None}, ["model=tiny"])


def test_help_describes_every_option_in_a_line():
    said = help_text().splitlines()
    for group, options in groups().items():
        assert f"{group}=" in [line.lstrip("+") for line in said]
        assert set(options) == {path.stem for path in (CONFIGS / group).glob("*.yaml")}
        for name, description in options.items():
            assert description.endswith("."), f"{group}={name}"
            assert any(line.split() == [name, *description.split()] for line in said)


def test_help_names_keys_that_exist():
    known = keys(composed([DEMO]))
    assert [name for names in KEYS for name in names.split(", ") if name not in known] == []


def test_keys_are_those_of_the_sections_too():
    config = OmegaConf.create({"a": {"b": 1, "c": "${a.b}"}, "d": "???"})
    assert keys(config) == ["a", "a.b", "a.c", "d"]
