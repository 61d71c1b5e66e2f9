from copy import deepcopy
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
from omegaconf import OmegaConf

from recipe.base.errors import UserError
from recipe.config.checks import check_settings
from recipe.config.compose import resolve
from recipe.config.data import check_data
from recipe.maths.learned import LearnedScalar, ScalarSettings

ROW = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": "1 + 1"}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"index": "0"},
}


@pytest.fixture(scope="module")
def demo(composed, tmp_path_factory):
    """A composed demo config on data of four rows."""
    path = write(tmp_path_factory.mktemp("data"), [ROW] * 4)
    sizes = ["data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4"]
    return composed(
        *sizes, f"data.train_files={path}", f"data.val_files={path}", "data.val_tasks=[]"
    )


@pytest.fixture
def config(demo):
    return deepcopy(demo)


def write(folder, rows, name="data.parquet"):
    path = folder / name
    pd.DataFrame(rows).to_parquet(path)
    return str(path)


def refused(config, changes):
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    with pytest.raises(UserError) as error:
        resolve(config)
        check_data(config, check_settings(config))
    return str(error.value)


def test_the_demo_config_is_accepted(config):
    check_data(config, check_settings(config))


ACTOR = "actor_rollout_ref.actor"
CORRECTION = "algorithm.rollout_correction"
MODE = "trainer.v1.trainer_mode"
SCALAR = {"start": 0.0, "spread": 0.1, "optimizer": "sgd", "lr": 0.1}


def test_a_run_may_have_no_number_of_steps(config):
    config.trainer.total_training_steps = None
    check_settings(config)


@pytest.mark.parametrize(
    ("changes", "found", "allowed"),
    [
        (
            {"aggregation.rule": "tokens"},
            "'tokens'",
            "balanced, balanced_batch, balanced_batch_weighted, balanced_square",
        ),
        ({"actor_rollout_ref.rollout.n": 1}, "rollout.n is 1", "at least 2"),
        ({"trainer.n_gpus_per_node": "eight"}, "n_gpus_per_node is 'eight'", "at least 1"),
        ({"trainer.n_gpus_per_node": 0}, "n_gpus_per_node is 0", "at least 1"),
        ({"seed": "abc"}, "seed is 'abc'", "must be an integer."),
        ({"data.train_batch_size": "abc"}, "train_batch_size is 'abc'", "an integer"),
        ({f"{ACTOR}.ppo_mini_batch_size": 2.5}, "ppo_mini_batch_size is 2.5", "an integer"),
        ({"trainer.save_freq": None}, "trainer.save_freq is null", "at least -1"),
        ({"trainer.test_freq": True}, "trainer.test_freq is True", "at least -1"),
        ({"trainer.total_training_steps": "x"}, "total_training_steps is 'x'", ", or null"),
        ({"data.train_batch_size": 6}, "train_batch_size is 6", "multiple of 4"),
        ({"trainer.n_gpus_per_node": 3}, "over 3 ranks", "multiple of 3"),
        ({f"{ACTOR}.loss_agg_mode": "token-sum"}, "is token-sum", "aggregation.rule"),
        ({f"{ACTOR}.loss_scale_factor": 9}, "loss_scale_factor is 9", "aggregation.rule"),
        ({"algorithm.adv_estimator": "gae"}, "adv_estimator is gae", "(grpo)"),
        (
            {
                f"{CORRECTION}.rollout_is": "token",
                "actor_rollout_ref.rollout.calculate_log_probs": False,
            },
            "rollout_correction is set",
            "calculate_log_probs=true",
        ),
        (
            {
                f"{CORRECTION}.bypass_mode": True,
                "actor_rollout_ref.rollout.calculate_log_probs": False,
            },
            "rollout_correction is set",
            "calculate_log_probs=true",
        ),
        ({f"{CORRECTION}.loss_type": "reinforce"}, "loss_type is reinforce", "does not read"),
        ({f"{ACTOR}.policy_loss.loss_mode": "bypass_mode"}, "is bypass_mode", "is false"),
        ({CORRECTION: None}, "rollout_correction is null", "Leave it out"),
        (
            {
                f"{CORRECTION}.rollout_rs": "seq_sum_k1",
                f"{CORRECTION}.bypass_mode": True,
            },
            "bypass_mode is true",
            "Remove that override",
        ),
        (
            {"aggregation.rule": "lambda", "aggregation.scalar": SCALAR | {"spread": 0.4}},
            "spread is 0.4",
            "less than 1 / sqrt(n - 1) = 0.378",
        ),
        ({"aggregation.rule": "lambda"}, "aggregation.scalar is missing", "aggregation=lambda"),
        (
            {"aggregation.rule": "lambda", "aggregation.scalar": {"start": 0}},
            "spread is missing",
            "",
        ),
        ({f"{ACTOR}.strategy": "megatron"}, "strategy is megatron", "FSDP actor"),
        ({f"{ACTOR}.strategy": "fsdp"}, "strategy is fsdp", "Use fsdp2"),
        (
            {"actor_rollout_ref.model.override_config.attn_implementation": "flash_attention_4"},
            "attn_implementation is flash_attention_4, which needs a GPU",
            "leave attention=... out",
        ),
        ({"trainer.logger": ["console"]}, "logger is ['console']", "[console,file,...]"),
        ({"trainer.resume_mode": "always"}, "resume_mode is always", "auto (resume this run)"),
        (
            {"trainer.save_freq": 5, "trainer.max_actor_ckpt_to_keep": 1},
            "max_actor_ckpt_to_keep is 1",
            "max_actor_ckpt_to_keep=2",
        ),
        (
            {"trainer.save_freq": 5, "trainer.del_local_ckpt_after_load": True},
            "del_local_ckpt_after_load is true",
            "without a complete checkpoint",
        ),
        (
            {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": "global_step_3"},
            "resume_from_path is global_step_3",
            "named global_step_N",
        ),
        (
            {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": "global_step_3/"},
            "resume_from_path is global_step_3/",
            "no slash behind",
        ),
        ({"trainer.val_only": True}, "val_only is true", "Remove"),
        ({"trainer.use_v1": False}, "use_v1 is false", "Remove"),
        ({MODE: "separate_async"}, "backend is naive on 0 x", "cpu_separate"),
        (
            {
                MODE: "separate_async",
                "actor_rollout_ref.rollout.nnodes": 1,
                "actor_rollout_ref.rollout.checkpoint_engine.backend": "gloo",
                "actor_rollout_ref.rollout.n_gpus_per_node": 1,
            },
            "train_batch_size is 4",
            "= 4 x 4",
        ),
        (
            {
                MODE: "separate_async",
                "data.train_batch_size": 2,
                "actor_rollout_ref.actor.ppo_mini_batch_size": 1,
                "trainer.v1.separate_async.parameter_sync_step": 2,
                "actor_rollout_ref.rollout.nnodes": 1,
                "actor_rollout_ref.rollout.checkpoint_engine.backend": "gloo",
                "actor_rollout_ref.rollout.n_gpus_per_node": 1,
            },
            "parameter_sync_step is 2",
            "(trainer.device=cpu): updates would be lost, or old log-probs be a later model's. Use "
            "parameter_sync_step=1",
        ),
        ({f"{ACTOR}.grad_clip": 0.5}, "grad_clip is 0.5", "optim.clip_grad, at which it clips"),
        ({"trainer.critic_warmup": 5}, "critic_warmup is 5", "Remove that override"),
        ({f"{ACTOR}.ppo_max_token_len_per_gpu": None}, "is null", "an integer of at least 1"),
        ({"aggregation.rules": "token"}, "no key aggregation.rules. The nearest is rule", ""),
        ({"data.train_files": "nowhere.parquet"}, "nowhere.parquet, which is not a file", "path"),
        (
            {"data.train_files": "data/dapo_17k.parquet"},
            "data/dapo_17k.parquet, which is not a file",
            "`python -m scripts.prepare_data dapo_17k --out data`",
        ),
        ({"data.train_batch_size": 8}, "holds 4 rows", "8 prompts"),
        (
            {
                "actor_rollout_ref.model.path": "Qwen/Qwen2.5-Math-7B",
                "data.max_prompt_length": 4096,
            },
            "is 4096 + 96",
            "has 4096 positions",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_what_is_allowed(config, changes, found, allowed):
    message = refused(config, changes)
    assert found in message
    assert allowed in message
    assert "\n" not in message


def test_a_checkpoint_without_the_learned_scalar_is_refused_under_lambda(config, tmp_path):
    (tmp_path / "global_step_3" / "actor").mkdir(parents=True)
    resume = {
        "trainer.resume_mode": "resume_path",
        "trainer.resume_from_path": str(tmp_path / "global_step_3"),
    }
    for key, value in resume.items():
        OmegaConf.update(config, key, value)
    check_settings(config)
    changes = {"aggregation.rule": "lambda", "aggregation.scalar": SCALAR}
    assert "has no aggregation.pt" in refused(config, changes)
    LearnedScalar(ScalarSettings(**SCALAR)).save(tmp_path / "global_step_3")
    check_settings(config)
    assert "saved with aggregation.scalar.optimizer=sgd" in refused(
        config, {"aggregation.scalar.optimizer": "adamw"}
    )


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("prompt", "1 + 1", "column prompt: found '1 + 1'"),
        ("prompt", [{"role": "user"}], "column prompt: found [{'role': 'user'}]"),
        ("reward_model", {"ground_truth": ""}, "column reward_model: ground_truth is ''"),
        ("data_source", None, "column data_source: found None"),
    ],
)
def test_a_malformed_row_is_named_with_its_column(config, tmp_path, column, value, found):
    rows = [ROW, ROW, ROW | {column: value}, ROW]
    if column == "prompt":
        rows = [ROW | {column: value}] * 4
    message = refused(config, {"data.train_files": write(tmp_path, rows, "bad.parquet")})
    assert f"row {0 if column == 'prompt' else 2}, {found}" in message


def test_a_missing_column_is_named_with_those_found(config, tmp_path):
    rows = [{key: value for key, value in ROW.items() if key != "reward_model"}]
    message = refused(config, {"data.val_files": write(tmp_path, rows, "bad.parquet")})
    assert "has no column reward_model; found data_source, prompt" in message


def test_a_file_that_is_no_parquet_is_refused(config, tmp_path):
    path = tmp_path / "text.parquet"
    path.write_text("not parquet")
    assert "cannot be read as parquet" in refused(config, {"data.train_files": str(path)})


def test_a_data_source_without_a_grader_is_refused(config, tmp_path):
    path = write(tmp_path, [ROW | {"data_source": "poetry"}] * 4, "other.parquet")
    assert "data_source is 'poetry'" in refused(config, {"data.train_files": path})


def test_too_little_memory_is_refused(config, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 2**30))
    assert "2.0 GiB of memory are free" in refused(config, {})


def test_a_missing_package_is_named(config, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    assert "not installed here: wandb" in refused(config, {"trainer.logger": ["file", "wandb"]})


def test_the_clip_that_acts_may_be_chosen(config):
    config.actor_rollout_ref.actor.optim.clip_grad = 0.5
    check_settings(config)


def test_a_missing_compiler_is_named(config, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no C++ compiler" in refused(config, {})


def test_a_ground_truth_that_no_grader_can_read_is_refused_in_any_row(config, tmp_path):
    rows = [ROW, ROW, ROW, ROW | {"reward_model": {"ground_truth": "$$", "style": "rule"}}]
    path = write(tmp_path, rows, "bad.parquet")
    assert "ground truth is '$$'" in refused(config, {"data.train_files": path})
    tests = ROW | {"data_source": "livecodebench"}
    path = write(tmp_path, [tests] * 4, "code.parquet")
    assert "`tests` is a int" in refused(config, {"data.train_files": path})


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"thinking": "sometimes"}, "thinking is 'sometimes'; it may be after, require, ignore"),
        ({"deadline": 0}, "deadline is 0; it must be positive"),
        ({"tolerance": 1}, "'tolerance' does not exist"),
        ({"sources": {"math_dapo": "nowhere:score"}}, "nowhere:score cannot be imported"),
    ],
)
def test_a_reward_setting_that_does_not_exist_is_refused(config, changes, found):
    prefix = "reward.custom_reward_function.reward_kwargs"
    message = refused(config, {f"{prefix}.{key}": value for key, value in changes.items()})
    assert found in message


def test_a_punishment_longer_than_the_limit_is_refused(config):
    kwargs = {"overlong_buffer_cfg": {"enable": True, "len": 4096, "penalty_factor": 1.0}}
    message = refused(config, {"reward.reward_kwargs": kwargs})
    assert "overlong_buffer_cfg.len is 4096" in message
