"""Advantage and objective of a config, and what is refused before training."""

import math
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from recipe.base.errors import UserError
from recipe.config.checks import check_config
from recipe.config.settings import Settings
from recipe.maths.advantages.gdpo import Gdpo
from recipe.maths.advantages.grpo import Grpo
from recipe.maths.advantages.ha_dw import HaDw
from recipe.run.folder import holds_same_run, method_of, run_folder

CONFIGS = Path(__file__).parents[3] / "configs"
ACTOR = "actor_rollout_ref.actor"


@pytest.fixture
def resolved(composed):
    def run(*overrides):
        config = composed(*overrides)
        OmegaConf.resolve(config)
        return config

    return run


def options(group):
    return sorted((CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "path",
    [*options("advantage"), *options("objective"), *options("preset")],
    ids=lambda p: f"{p.parent.stem}={p.stem}",
)
def test_a_file_is_named_as_the_run_is_and_says_in_one_line_which_paper_it_is(path):
    text = path.read_text()
    given = yaml.safe_load(text)
    named = given if path.parent.stem == "preset" else given.get("objective") or given
    assert named.get("preset" if path.parent.stem == "preset" else "name") == path.stem
    line = next(x for x in text.splitlines() if x.startswith("# ") and "@package" not in x)
    assert path.stem in ("none", "policy_gradient") or "arXiv:" in line


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "balanced"),
        (["aggregation=token", "advantage=ha_dw_code"], "token+ha_dw_code"),
        (["advantage=gdpo"], "balanced+gdpo"),
        (["objective=discob_logl"], "discob_logl"),
        (["aggregation=token", "advantage=opo", "objective=bapo"], "token+opo+bapo"),
        (["preset=luspo"], "constant+luspo"),
        (["preset=lite_ppo", "aggregation=token"], "token+batch_std+lite_ppo"),
    ],
)
def test_a_run_is_named_and_compared_by_its_arm(overrides, name, resolved):
    config = resolved(*overrides)
    assert method_of(config) == name
    assert run_folder(config, ["+experiment=cpu_demo", *overrides]).name == f"{name}-s0"
    assert run_folder(config, [*overrides, "advantage.x=1"]).name.startswith(f"{name}-s0-")


def test_a_run_of_before_there_was_a_choice_is_named_by_its_rule_and_goes_on(resolved, tmp_path):
    config = resolved()
    before = OmegaConf.create(
        {k: v for k, v in config.items() if k not in ("advantage", "objective", "preset")}
    )
    del before.aggregation.positive_factor
    assert method_of(before) == "balanced"
    OmegaConf.save(before, tmp_path / "config.yaml")
    assert holds_same_run(tmp_path, config)
    with pytest.raises(UserError, match=r"differs in advantage\.ha_dw\.anchor"):
        holds_same_run(tmp_path, resolved("advantage=ha_dw"))


LOSS, LOW, HIGH = (
    f"{ACTOR}.{x}" for x in ("policy_loss.loss_mode", "clip_ratio_low", "clip_ratio_high")
)
BY_STD = "algorithm.norm_adv_by_std_in_grpo"
# What each paper or its documentation says, by the key that does it.
PRESETS = {
    "luspo": ("constant", "grpo", {LOSS: "gspo", LOW: 2e-3, HIGH: 2.5e-3, BY_STD: True}),
    "dapo": ("token", "grpo", {HIGH: 0.28, "algorithm.filter_groups.enable": True}),
    "dr_grpo": ("constant", "grpo", {LOSS: "vanilla", BY_STD: False}),
    "magistral": ("token", "batch_std", {HIGH: 0.28, "aggregation.drop_zero_groups": True}),
    "scalerl": ("token", "batch_std", {LOSS: "cispo", HIGH: 4.0, "leave_out_solved": 0.9}),
    "lite_ppo": ("token_batch", "batch_std", {LOSS: "vanilla"}),
    "sapo": ("sequence", "grpo", {LOSS: "sapo_exact", f"{ACTOR}.tau_neg": 1.05}),
    "gmpo": ("sequence", "grpo", {LOSS: "gmpo_exact", LOW: 0.4, HIGH: 0.4}),
    "oblr_po": ("token_batch", "oblr", {"follow_snr": 0.9}),
    "w_reinforce": ("token_batch", "reinforce", {"aggregation.positive_factor": 0.1}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_paper_says_and_trains_the_demo(name, resolved):
    rule, advantage, keys = PRESETS[name]
    config = resolved(f"preset={name}")
    check_config(config)
    assert (config.aggregation.rule, config.advantage.name) == (rule, advantage)
    assert {key: OmegaConf.select(config, key) for key in keys} == keys


def test_every_preset_is_there():
    assert [path.stem for path in options("preset")] == sorted(PRESETS)


def advantage(config):
    return Settings.of(config).begin(config).chosen.advantage


def disco(config):
    return Settings.of(config).objective.settings


def test_each_option_is_what_its_paper_or_code_says(resolved):
    adaptive, window, code = (
        advantage(resolved(f"advantage={name}")) for name in ("ha_dw", "ha_dw_window", "ha_dw_code")
    )
    assert all(isinstance(found, HaDw) for found in (adaptive, window, code))
    anchors = [a.settings.anchor for a in (adaptive, window, code)]
    assert anchors == ["adaptive", "window", "window_with_current"]
    assert [a.settings.scale for a in (adaptive, window, code)] == [1.3, 1.3, 1.5]
    assert code.settings.window == 10
    gdpo, token = (advantage(resolved(f"advantage={name}")) for name in ("gdpo", "gdpo_token"))
    assert isinstance(gdpo, Gdpo)
    assert (gdpo.settings.statistics, token.settings.statistics) == ("response", "token")
    # Half of the demo's 96 tokens.
    assert gdpo.settings.length_limit == 48
    assert gdpo.divide_by_std
    assert not advantage(resolved("advantage=gdpo", "aggregation=constant")).divide_by_std
    taus = {
        name: disco(resolved(f"objective={name}")).tau
        for name in ("disco_logl", "disco_lratio", "discob_logl", "discob_lratio")
    }
    assert taus == {
        "disco_logl": 10,
        "disco_lratio": 1,
        "discob_logl": math.inf,
        "discob_lratio": math.inf,
    }
    logl = disco(resolved("objective=disco_logl"))
    assert (logl.kl_limit, logl.kl_penalty, logl.kl) == (1e-4, 1e3, "k1")
    assert isinstance(advantage(resolved()), Grpo)
    assert disco(resolved()) is None


DISCO = "objective=disco_logl"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([DISCO, "aggregation=token"], "aggregation.rule is token .* no aggregation to choose"),
        ([DISCO, "advantage=gdpo"], "advantage.name is gdpo .* no advantages"),
        ([DISCO, "aggregation.mask_truncated=true"], "mask_truncated"),
        ([DISCO, f"{ACTOR}.policy_loss.loss_mode=gspo"], "loss_mode is gspo"),
        ([DISCO, f"{ACTOR}.entropy_coeff=0.1"], "entropy_coeff"),
        ([DISCO, f"{ACTOR}.use_kl_loss=true"], "use_kl_loss"),
        (
            [
                DISCO,
                "algorithm.rollout_correction.rollout_is=token",
                "actor_rollout_ref.rollout.calculate_log_probs=true",
            ],
            "rollout_is",
        ),
        ([DISCO, f"{ACTOR}.shuffle=true"], "shuffle .* separate the groups"),
        (
            [DISCO, "rewards=dapo", "reward.reward_kwargs.overlong_buffer_cfg.len=20"],
            "length penalty would be lost",
        ),
        ([DISCO, "objective.disco.tau=0"], "objective.disco.tau is 0, but must be greater than 0"),
        (["objective=policy_gradient", "aggregation=none"], "aggregation=none is for objectives"),
        (["advantage=none"], "advantage=none is for objectives"),
        (["advantage=ha_dw", "advantage.ha_dw.window=1"], "ha_dw.window is 1"),
        (
            ["advantage=ha_dw", "+advantage.ha_dw.speed=1"],
            "no key advantage.ha_dw.speed. Known keys are anchor",
        ),
        (["+advantage.ha_dw.scale=2"], "advantage=grpo has no advantage.ha_dw"),
        (["advantage=ha_dw", "~advantage.ha_dw"], "advantage=ha_dw has no settings"),
        (
            ["advantage=gdpo", "advantage.gdpo.rewards=null"],
            "rewards is null, but must be a section",
        ),
        (["advantage=gdpo_token", "aggregation.drop_zero_groups=true"], "move groups without"),
        (
            [
                "advantage=gdpo",
                "+advantage.gdpo.rewards.tone=1",
                "+reward.custom_reward_function.reward_kwargs.sources.mine=polaris",
            ],
            "tone, .* correctness, format, length",
        ),
        (["advantage=gdpo", "algorithm.use_kl_in_reward=true"], "use_kl_in_reward"),
        (
            ["advantage=gdpo", "+advantage.gdpo.rewards.tone=1"],
            "tone, .* correctness, format, length",
        ),
        (
            ["advantage=gdpo", "rewards=dapo", "reward.reward_kwargs.overlong_buffer_cfg.len=20"],
            "which the advantage does not read",
        ),
    ],
)
def test_what_would_be_lost_or_mean_nothing_is_refused_with_the_reason(overrides, reason, resolved):
    with pytest.raises(UserError, match=reason):
        check_config(resolved(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [DISCO, f"{ACTOR}.ppo_mini_batch_size=4", f"{ACTOR}.ppo_epochs=2"],
        [
            DISCO,
            "algorithm.rollout_correction.bypass_mode=true",
            "actor_rollout_ref.rollout.calculate_log_probs=true",
        ],
        [
            "advantage=gdpo",
            "rewards=dapo",
            "reward.reward_kwargs.overlong_buffer_cfg.len=20",
            "+advantage.gdpo.rewards.overlong_reward=1",
        ],
        [
            "advantage=gdpo",
            "+advantage.gdpo.rewards.tone=1",
            "+reward.custom_reward_function.reward_kwargs.sources.mine=my.module:scorer",
        ],
        ["advantage=gdpo", "~advantage.gdpo.rewards.length"],
    ],
)
def test_what_goes_together_is_not_refused(overrides, resolved):
    check_config(resolved(*overrides))
