"""GPU-hours of an experiment before it is launched: an estimate with its assumptions.

    python -m recipe.cost +experiment=qwen25_math_7b_polaris [cluster=gpu8x2] [KEY=VALUE...]
    python -m recipe.cost table [--into README.md]      # the paper's runs, with their memory

A step is a rollout, bound by the memory that decoding reads, and training, bound by arithmetic.
Both reach the same part, `estimate.utilization`, of a GPU's peaks.
"""

from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.config.compose import composed
from recipe.config.resources import num_gpus, separate_gpus, trainer_gpus
from recipe.estimate.memory import GIB, kv_bytes_per_gpu, memory
from recipe.estimate.shapes import Shape, shape_of

# What `table` shows; the data change neither number.
MODELS = ("qwen25_math_7b", "qwen3_1_7b")
CLUSTERS = ("gpu8", "gpu8x2", "gpu8x4")


class GpuHours(NamedTuple):
    """What a run is expected to take."""

    total: float
    """GPU-hours: hours of the run times its GPUs."""
    hours: float
    num_gpus: int
    num_steps: int
    rollout_seconds: float
    """Of one step."""
    training_seconds: float
    """Of one step: old log-probs, gradients and the update."""
    assumptions: str
    """In a sentence or two, to be printed beside the numbers."""


def gpu_hours(config: DictConfig) -> GpuHours:
    """Expected GPU-hours of `config`.

    Raises:
        UserError: the model's shape is not known, or the number of steps.
    """
    steps = config.trainer.total_training_steps
    if not steps:
        raise UserError(
            f"trainer.total_training_steps is {steps}, so the run's length depends on its data. "
            f"Give a number to have it estimated."
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
            f"Assumed: prompts and responses have {known.mean_length:.0%} of their limits in the "
            f"mean, one response of each server reaches it, and {known.utilization:.0%} of a GPU's "
            f"{known.gpu_bandwidth / 1e12:.3g} TB/s in rollout and {known.gpu_flops / 1e12:.3g} "
            f"TFLOP/s in training are reached (estimate.* in configs/base.yaml, with the source). "
            f"Start, validation, rewards, weight sync and checkpoints are not counted"
            f"{', nor that rollout and training overlap' if separate_gpus(config) else ''}."
        ),
    )


def rollout_seconds(config: DictConfig, shape: Shape) -> float:
    """Seconds in which the servers, side by side, sample a train batch.

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
    """Seconds of a forward pass for old log-probs, and of the update.

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


def table() -> list[str]:
    """Memory and GPU-hours of the paper's models on each cluster, in lines of Markdown."""
    rows = []
    for model in MODELS:
        for cluster in CLUSTERS:
            config = composed([f"model={model}", "training=paper", f"cluster={cluster}"])
            found, cost = memory(config), gpu_hours(config)
            rows.append(
                [
                    f"`{model}`",
                    f"`{cluster}`",
                    *(
                        f"{sum(parts.values()) / GIB:.0f}"
                        for parts in (found.update, found.rollout)
                    ),
                    str(found.full_sequences),
                    f"{cost.hours:.0f}",
                    f"{cost.total:.0f}",
                ]
            )
    head = ["model", "cluster", "update, GiB", "rollout, GiB", "sequences", "hours", "GPU-hours"]
    return markdown_table(head, rows)
