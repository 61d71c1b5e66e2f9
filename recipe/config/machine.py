"""Check the machine before Ray starts: packages, disk, memory, a compiler."""

import importlib.util
import shutil
from pathlib import Path

import psutil
from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.estimate.shapes import KNOWN, shape_of

PACKAGES = ("verl", "ray", "vllm", "transfer_queue", "tensordict", "transformers", "wrapt")
# Measured on the CPU demo: one rank with its vLLM server, and the driver with Ray.
GIB_PER_CPU_RANK, GIB_BESIDE = 3.5, 3.5


def check_packages(config: DictConfig) -> None:
    """Refuse a machine without a package that the run imports.

    Raises:
        UserError: one is missing.
    """
    wanted = [*PACKAGES, *(name for name in ("wandb",) if name in config.trainer.logger)]
    model, rollout = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    if config.trainer.device == "cuda" and attention == "flash_attention_2":
        wanted.append("flash_attn")
    if config.trainer.v1.trainer_mode == "separate_async":
        wanted += ["cupy"] if rollout.checkpoint_engine.backend == "nccl" else []
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"not installed here: {', '.join(missing)}. Run `make install` and use "
            f".venv/bin/python, or on a CUDA machine install requirements/gpu.txt, and "
            f"requirements/flash-attn.txt after it."
        )


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
