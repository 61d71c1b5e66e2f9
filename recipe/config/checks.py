"""What can be known to fail is said before Ray starts, in one paragraph."""

import importlib.util
import math
import re
import shutil
from pathlib import Path

import psutil
from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.config.batches import check_batches, check_micro_batches
from recipe.config.methods import advantage_of, check_methods
from recipe.config.settings import AggregationSettings
from recipe.estimate.shapes import KNOWN, check_positions, shape_of
from recipe.maths.learned import LearnedScalar

PACKAGES = ("verl", "ray", "vllm", "transfer_queue", "tensordict", "transformers", "wrapt")
# Measured on the CPU demo: one rank with its vLLM server, and the driver with Ray.
GIB_PER_CPU_RANK, GIB_BESIDE = 3.5, 3.5


def check_settings(config: DictConfig) -> None:
    """All that needs no data.

    Raises:
        UserError: the first thing found wrong.
    """
    check_packages(config)
    check_config(config)
    if config.trainer.device == "cpu":
        check_cpu_machine(config)


def check_config(config: DictConfig) -> None:
    """All that needs neither data nor the machine that trains."""
    check_batches(config)
    check_micro_batches(config)
    check_positions(config)
    check_aggregation(config)
    check_methods(config)
    check_trainer(config)
    check_overlong(config)


def check_packages(config: DictConfig) -> None:
    """Every package a run imports is installed."""
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


def check_aggregation(config: DictConfig) -> None:
    """The rule is known, and nothing beside it would silently mean something else."""
    rollout_n = config.actor_rollout_ref.rollout.n
    try:
        settings = AggregationSettings.from_config(config)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.rollout_correction
    if correction is None:
        raise UserError(
            "algorithm.rollout_correction is null. Leave it out: verl's default corrects nothing."
        )
    corrects = correction.rollout_is is not None or correction.rollout_rs is not None
    bypass_loss = actor.policy_loss.loss_mode == "bypass_mode"
    refusals = {
        "actor_rollout_ref.actor.loss_agg_mode": (
            actor.loss_agg_mode != "token-mean",
            f"is {actor.loss_agg_mode}, which only the entropy and KL terms would follow",
        ),
        "actor_rollout_ref.actor.loss_scale_factor": (
            actor.loss_scale_factor is not None,
            "is set, which only verl's own aggregation would follow",
        ),
        "algorithm.adv_estimator": (
            config.algorithm.adv_estimator != "grpo",
            f"is {config.algorithm.adv_estimator}, but a weight belongs to a response with one "
            f"group-relative advantage (grpo)",
        ),
        "distillation.enabled": (
            bool(config.distillation.enabled),
            "is true, and distillation brings a loss of its own",
        ),
        "actor_rollout_ref.actor.strategy": (
            actor.strategy not in ("fsdp", "fsdp2"),
            f"is {actor.strategy}, and the actor's measurements are written for fsdp and fsdp2",
        ),
        "algorithm.rollout_correction": (
            (corrects or bool(correction.bypass_mode))
            and not config.actor_rollout_ref.rollout.calculate_log_probs,
            "is set, but needs actor_rollout_ref.rollout.calculate_log_probs=true",
        ),
        "algorithm.rollout_correction.bypass_mode": (
            corrects and bool(correction.bypass_mode),
            "is true, and then verl's trainer skips rollout_is and rollout_rs, which are set",
        ),
        "algorithm.rollout_correction.loss_type": (
            correction.loss_type != "ppo_clip",
            f"is {correction.loss_type}, which verl's V1 trainer does not read; the loss "
            f"bypass_mode has a loss_type of its own",
        ),
        "actor_rollout_ref.actor.policy_loss.loss_mode": (
            bypass_loss and not correction.bypass_mode,
            "is bypass_mode, which takes the rollout's log-probs for old ones, but "
            "algorithm.rollout_correction.bypass_mode is false",
        ),
    }
    for key, (refused, reason) in refusals.items():
        if refused:
            raise UserError(
                f"{key} {reason}. Remove or change that override: the policy term follows "
                f"aggregation.rule, or an objective without one, in an FSDP actor trained by "
                f"verl's V1 trainer."
            )
    if settings.scalar and settings.scalar.spread * math.sqrt(rollout_n - 1) >= 1:
        raise UserError(
            f"aggregation.scalar.spread is {settings.scalar.spread:.3g}, at which lambda-GRPO may "
            f"be undefined in a group of {rollout_n} responses (actor_rollout_ref.rollout.n). Use "
            f"less than 1 / sqrt(n - 1) = {1 / math.sqrt(rollout_n - 1):.3g}."
        )


def check_trainer(config: DictConfig) -> None:
    """The trainer writes what the report reads, and does what its settings say."""
    trainer = config.trainer
    if "file" not in trainer.logger:
        raise UserError(
            f"trainer.logger is {list(trainer.logger)}, but the progress line and the report read "
            f"what `file` writes. Add it: trainer.logger=[console,file,...]."
        )
    if trainer.val_only or not trainer.use_v1:
        raise UserError(
            f"trainer.{'val_only' if trainer.val_only else 'use_v1'} is "
            f"{bool(trainer.val_only)}, but a run here trains, with verl's V1 trainer. Remove that "
            f"override."
        )
    actor = config.actor_rollout_ref.actor
    if actor.grad_clip not in (1.0, actor.optim.clip_grad):
        raise UserError(
            f"actor_rollout_ref.actor.grad_clip is {actor.grad_clip}, but verl's FSDP engine does "
            f"not read it and clips at actor.optim.clip_grad={actor.optim.clip_grad}. Set that one."
        )
    if trainer.critic_warmup > 0:
        raise UserError(
            f"trainer.critic_warmup is {trainer.critic_warmup}, steps in which verl trains its "
            f"critic alone; here is none. Remove that override."
        )
    if trainer.resume_mode not in ("auto", "disable", "resume_path"):
        raise UserError(
            f"trainer.resume_mode is {trainer.resume_mode}. It may be auto (go on where an earlier "
            f"start of this run was stopped), resume_path with trainer.resume_from_path=.../"
            f"global_step_N (begin from another run's checkpoint), or disable (begin anew)."
        )
    check_saving(config)
    if trainer.resume_mode == "resume_path":
        folder = Path(str(trainer.resume_from_path))
        # verl reads the step's number off the end of the text.
        named = re.search(r"(^|/)global_step_\d+$", str(trainer.resume_from_path))
        if not named or not (folder / "actor").is_dir():
            raise UserError(
                f"trainer.resume_from_path is {trainer.resume_from_path}, which is no checkpoint. "
                f"It is a folder named global_step_N (no slash behind) with a folder actor in it; "
                f"runs write them under checkpoints/ every trainer.save_freq steps."
            )
        scalar, advantage = AggregationSettings.from_config(config).scalar, advantage_of(config)
        try:
            if scalar:
                LearnedScalar(scalar).load(folder)
            if advantage and advantage.memory:
                advantage.memory.load(folder)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(str(error)) from None
    if trainer.v1.trainer_mode == "separate_async":
        check_separate(config)


def check_saving(config: DictConfig) -> None:
    """A whole checkpoint is there at any time, once there was one."""
    trainer, checkpoint = config.trainer, config.actor_rollout_ref.actor.checkpoint
    refusals = {
        "trainer.max_actor_ckpt_to_keep=1": trainer.max_actor_ckpt_to_keep == 1,
        "trainer.remove_previous_ckpt_in_save": bool(trainer.get("remove_previous_ckpt_in_save")),
        "trainer.del_local_ckpt_after_load": bool(trainer.del_local_ckpt_after_load),
        "actor_rollout_ref.actor.checkpoint.async_save": bool(checkpoint.get("async_save")),
    }
    for key, refused in refusals.items():
        if refused and trainer.save_freq > 0:
            raise UserError(
                f"{key} is set, and then there are times without a whole checkpoint to go on from. "
                f"Remove that override; trainer.max_actor_ckpt_to_keep=2 is the least that is safe."
            )


def check_separate(config: DictConfig) -> None:
    """What verl's separate_async trainer asserts, before Ray starts."""
    rollout = config.actor_rollout_ref.rollout
    train, mini = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    step = config.trainer.v1.separate_async.parameter_sync_step
    if rollout.checkpoint_engine.backend == "naive" or not rollout.nnodes * rollout.n_gpus_per_node:
        raise UserError(
            f"trainer.v1.trainer_mode is separate_async, but rollout.checkpoint_engine.backend is "
            f"{rollout.checkpoint_engine.backend} on {rollout.nnodes} x {rollout.n_gpus_per_node} "
            f"GPUs. It needs servers of its own and a backend that reaches them, as cluster="
            f"cpu_separate has; on GPUs use nccl."
        )
    if train != mini * step:
        raise UserError(
            f"data.train_batch_size is {train}, but separate_async needs ppo_mini_batch_size x "
            f"trainer.v1.separate_async.parameter_sync_step = {mini} x {step}. Change one of them."
        )
    actor, bypass = config.actor_rollout_ref.actor, config.algorithm.rollout_correction.bypass_mode
    on_cpu = {
        "trainer.device=cpu": config.trainer.device == "cpu",
        "actor.fsdp_config.param_offload": actor.fsdp_config.param_offload,
        "actor.fsdp_config.offload_policy": actor.fsdp_config.offload_policy,
    }
    if step > 1 and actor.strategy == "fsdp2" and not bypass and any(on_cpu.values()):
        raise UserError(
            f"trainer.v1.separate_async.parameter_sync_step is {step}. Between the updates of a "
            f"step verl keeps the model by moving it to the CPU, which is no copy of parameters "
            f"that are there ({', '.join(key for key, is_so in on_cpu.items() if is_so)}): updates "
            f"would be lost, or old log-probs be a later model's. Use parameter_sync_step=1, a GPU "
            f"without offloading, or algorithm.rollout_correction.bypass_mode=true."
        )


def check_overlong(config: DictConfig) -> None:
    """The punishment for length begins after the first token."""
    buffer = config.reward.get("reward_kwargs", {}).get("overlong_buffer_cfg")
    limit = config.data.max_response_length
    if buffer and buffer.enable and not 0 < buffer.len < limit:
        raise UserError(
            f"reward.reward_kwargs.overlong_buffer_cfg.len is {buffer.len}, but the punishment "
            f"must begin after the first of data.max_response_length={limit} tokens. "
            f"Give a smaller len; DAPO has a fifth of the limit."
        )


def check_disk(config: DictConfig, folder: Path) -> None:
    """There is room for the checkpoints that are there at a time, of a model of known size.

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
    """A compiler for vLLM's kernel, memory for the ranks, and nothing that needs a GPU."""
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
