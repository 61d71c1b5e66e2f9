"""Count the GPUs that a run takes."""

from omegaconf import DictConfig


def num_gpus(config: DictConfig) -> int:
    """Return the GPUs that a run holds, including those of separate servers."""
    return trainer_gpus(config) + separate_gpus(config)


def trainer_gpus(config: DictConfig) -> int:
    """Return the GPUs of the trainer, which the servers share unless they are separate."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


def separate_gpus(config: DictConfig) -> int:
    """Return the GPUs that only sample; 0 unless the trainer mode is `separate_async`."""
    rollout = config.actor_rollout_ref.rollout
    if config.trainer.v1.trainer_mode != "separate_async" or not rollout.nnodes:
        return 0
    return rollout.nnodes * rollout.n_gpus_per_node
