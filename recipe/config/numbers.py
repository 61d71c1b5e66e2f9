"""Check the numbers of a config that are read before verl reads them."""

from numbers import Real
from typing import Any, TypeGuard

from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# The least that each may be.
INTEGERS: dict[str, float] = {
    "seed": float("-inf"),
    "data.train_batch_size": 1,
    "data.max_prompt_length": 1,
    "data.max_response_length": 1,
    f"{ROLLOUT}.n": 1,
    f"{ACTOR}.ppo_mini_batch_size": 1,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 1,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1,
    f"{ACTOR}.ulysses_sequence_parallel_size": 1,
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 1,
    f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 1,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": 1,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "trainer.total_training_steps": 1,
    "trainer.save_freq": -1,
    "trainer.test_freq": -1,
    "trainer.critic_warmup": 0,
}
MAY_BE_NULL = (
    "trainer.total_training_steps",
    f"{ACTOR}.ppo_micro_batch_size_per_gpu",
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu",
)
# What recipe.memory and recipe.cost read beside them.
ESTIMATED_INTEGERS: dict[str, float] = {
    f"{ACTOR}.ppo_epochs": 1,
    f"{ACTOR}.fsdp_config.fsdp_size": -1,
    f"{ROLLOUT}.max_num_batched_tokens": 1,
    f"{ROLLOUT}.max_num_seqs": 1,
    f"{ROLLOUT}.tensor_model_parallel_size": 1,
    f"{ROLLOUT}.nnodes": 0,
    f"{ROLLOUT}.n_gpus_per_node": 0,
    f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": 0,
}
ESTIMATED_NUMBERS: dict[str, tuple[float, float]] = {
    f"{ROLLOUT}.gpu_memory_utilization": (0.01, 1),
    "estimate.gpu_gib": (1, 1e6),
    "estimate.gpu_flops": (1, 1e21),
    "estimate.gpu_bandwidth": (1, 1e18),
    "estimate.reserved_gib": (0, 1e6),
    "estimate.mean_length": (0.01, 1),
    "estimate.utilization": (0.01, 1),
}


def check_integers(config: DictConfig, keys: dict[str, float] = INTEGERS) -> None:
    """Check that each of `keys` is an integer and not below its least value.

    Raises:
        UserError: the first that is not.
    """
    for key, least in keys.items():
        value = OmegaConf.select(config, key)
        if value is None and key in MAY_BE_NULL:
            continue
        if value is None or not _is_number(value, int) or value < least:
            bound = f" of at least {least}" if least > float("-inf") else ""
            null = ", or null" if key in MAY_BE_NULL else ""
            raise UserError(f"{key} is {_shown(value)}, but must be an integer{bound}{null}.")


def check_estimated(config: DictConfig) -> None:
    """Check the numbers that `recipe.memory` and `recipe.cost` read.

    Raises:
        UserError: the first that is not.
    """
    check_integers(config)
    check_integers(config, ESTIMATED_INTEGERS)
    for key, (least, most) in ESTIMATED_NUMBERS.items():
        value = OmegaConf.select(config, key)
        if not _is_number(value, Real) or not least <= value <= most:
            raise UserError(
                f"{key} is {_shown(value)}, but must be a number from {least:g} to {most:g}."
            )


def _is_number(value: Any, kind: type) -> TypeGuard[float]:
    return isinstance(value, kind) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)
