"""Estimate the GPU-hours of an experiment before it is launched, with the assumptions made.

    python -m recipe.cost +experiment=qwen25_math_7b_polaris [cluster=gpu8x2] [KEY=VALUE...]
    python -m recipe.cost table [--into README.md]      # the paper's runs, with their memory

A step has two parts. The rollout is limited by the memory that decoding reads, and training by
arithmetic. Both are assumed to reach the same share, `estimate.utilization`, of a GPU's peaks.
"""

from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.estimate.gpus import num_gpus, separate_gpus, trainer_gpus
from recipe.estimate.memory import kv_bytes_per_gpu, memory
from recipe.estimate.shapes import Shape, shape_of

# What `table` shows; the data change neither number.


class GpuHours(NamedTuple):
    """The time that a run is expected to take."""

    total: float
    """GPU-hours: hours of the run times its GPUs."""
    hours: float
    num_gpus: int
    num_steps: int
    rollout_seconds: float
    """Seconds that sampling takes in one step."""
    training_seconds: float
    """Seconds that old log-probs, gradients and the update take in one step."""
    assumptions: str
    """A sentence or two, printed beside the numbers."""


def gpu_hours(config: DictConfig) -> GpuHours:
    """Return the expected GPU-hours of `config`.

    Raises:
        UserError: the model's shape or the number of steps is not known.
    """
    steps = config.trainer.total_training_steps
    if not steps:
        raise UserError(
            f"trainer.total_training_steps is {steps}, so the run's length depends on its data. "
            f"Set it to have the run estimated."
        )
    shape, gpus = shape_of(config), num_gpus(config)
    rollout = rollout_seconds(config, shape)
    training = training_seconds(config, shape)
    hours = steps * (rollout + training) / 3600
    known = config.estimate
    return GpuHours(
        total=hours * gpus,
        hours=hours,
        num_gpus=gpus,
        num_steps=steps,
        rollout_seconds=rollout,
        training_seconds=training,
        assumptions=(
            f"Assumed: prompts and responses have {known.mean_length:.0%} of their limits on "
            f"average, one response of each server reaches them, and {known.utilization:.0%} of a "
            f"GPU's {known.gpu_bandwidth / 1e12:.3g} TB/s in rollout and "
            f"{known.gpu_flops / 1e12:.3g} TFLOP/s in training are reached "
            f"(estimate.* in configs/base.yaml, with the source). "
            f"Start, validation, rewards, weight sync and checkpoints are not counted"
            f"{', nor that rollout and training overlap' if separate_gpus(config) else ''}."
        ),
    )


def rollout_seconds(config: DictConfig, shape: Shape) -> float:
    """Return the seconds in which all servers together sample a train batch.

    A decoding step reads the weights once (2 bytes a parameter) and the KV cache of all sequences
    that run; a response of length L after a prompt of length P reads (P L + L^2 / 2) tokens of it.
    There are as many steps as the longest response has tokens, or S L / C where only C of the
    server's S sequences run at a time.
    """
    rollout, known = config.actor_rollout_ref.rollout, config.estimate
    prompt = known.mean_length * config.data.max_prompt_length
    response = known.mean_length * config.data.max_response_length
    parallel = rollout.tensor_model_parallel_size
    servers = (separate_gpus(config) or trainer_gpus(config)) / parallel
    sequences = config.data.train_batch_size * rollout.n / servers
    held = memory(config).kv_tokens / (prompt + response)
    running = max(1, min(sequences, held, rollout.max_num_seqs))
    decoding_steps = max(config.data.max_response_length, sequences * response / running)
    weights = decoding_steps * 2 * shape.parameters / parallel
    cached = sequences * (prompt * response + response**2 / 2) * kv_bytes_per_gpu(config, shape)
    return (weights + cached) / (known.utilization * known.gpu_bandwidth)


def training_seconds(config: DictConfig, shape: Shape) -> float:
    """Return the seconds of a forward pass for old log-probs, and of the update.

    The update has a forward pass, a backward pass that costs two, and with gradient checkpointing
    the forward pass again.
    """
    known = config.estimate
    num_responses = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    length = known.mean_length * (config.data.max_prompt_length + config.data.max_response_length)
    forward = shape.forward_operations(num_responses * length, num_responses * length**2)
    update = 4 if config.actor_rollout_ref.model.enable_gradient_checkpointing else 3
    passes = 1 + update * config.actor_rollout_ref.actor.ppo_epochs
    return passes * forward / (trainer_gpus(config) * known.utilization * known.gpu_flops)
