"""Check before Ray starts how a batch divides into mini-batches, ranks and micro-batches."""

from omegaconf import DictConfig

from recipe.base.errors import UserError


def check_batches(config: DictConfig) -> None:
    """Refuse a batch that does not divide into groups, mini-batches and ranks.

    Raises:
        UserError: it does not.
    """
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    train, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    gpus, along = config.trainer.n_gpus_per_node * config.trainer.nnodes, sequence_parallel(config)
    if n < 2:
        raise UserError(
            f"actor_rollout_ref.rollout.n is {n}, but group-relative advantages need at least 2 "
            f"responses per prompt. The experiments in configs/ use 8 or more."
        )
    if train % mini:
        raise UserError(
            f"data.train_batch_size is {train}, which mini-batches of "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini} prompts do not divide. "
            f"Use a multiple of {mini}, or a mini-batch size that divides {train}."
        )
    if gpus % along:
        raise UserError(
            f"actor.fsdp_config.ulysses_sequence_parallel_size is {along}, which does not divide "
            f"the {gpus} GPUs (trainer.n_gpus_per_node x trainer.nnodes). Use a divisor of {gpus}."
        )
    ranks = num_ranks(config)
    if (mini * n) % ranks:
        raise UserError(
            f"a mini-batch of {mini} prompts x {n} responses does not divide over {ranks} ranks "
            f"(trainer.n_gpus_per_node x trainer.nnodes / Ulysses' size). Make {mini} x {n} a "
            f"multiple of {ranks}."
        )


def sequence_parallel(config: DictConfig) -> int:
    """Return how many GPUs share a sequence (Ulysses). verl has two keys for it."""
    actor = config.actor_rollout_ref.actor
    old, new = (x.ulysses_sequence_parallel_size for x in (actor, actor.fsdp_config))
    return old if old > 1 else new


def num_ranks(config: DictConfig) -> int:
    """Return the data-parallel ranks of the actor."""
    return config.trainer.n_gpus_per_node * config.trainer.nnodes // sequence_parallel(config)


def check_micro_batches(config: DictConfig) -> None:
    """Refuse micro-batches without room for the longest row, or that do not divide a rank's rows.

    verl asserts the former only on the rank that meets such a row, while the others wait for it.
    """
    data, actor = config.data, config.actor_rollout_ref.actor
    rollout, along = config.actor_rollout_ref.rollout, sequence_parallel(config)
    longest = data.max_prompt_length + data.max_response_length
    ranks = num_ranks(config)
    for name, section, prompts in (
        ("actor.ppo", actor, actor.ppo_mini_batch_size),
        ("rollout.log_prob", rollout, data.train_batch_size),
    ):
        phase = name.partition(".")[2]
        budget = section[f"{phase}_max_token_len_per_gpu"]
        if actor.use_dynamic_bsz and budget * along < longest:
            raise UserError(
                f"actor_rollout_ref.{name}_max_token_len_per_gpu is {budget}, with {along} GPU(s) "
                f"a sequence, but a prompt and its response may have {data.max_prompt_length} + "
                f"{data.max_response_length} tokens. Use {-(-longest // along)} or more."
            )
        size, rows = section[f"{phase}_micro_batch_size_per_gpu"], prompts * rollout.n // ranks
        if not actor.use_dynamic_bsz and size and rows % size:
            raise UserError(
                f"actor_rollout_ref.{name}_micro_batch_size_per_gpu is {size}, which does not "
                f"divide the {rows} rows of a rank. Use a divisor of {rows}."
            )


def check_halves(config: DictConfig, memory: float | None) -> None:
    """Refuse `follow_snr` where the halves of a mini-batch cannot be made.

    Args:
        config: a resolved config of the recipe.
        memory: its `follow_snr`.

    Raises:
        UserError: the memory is out of range, or a half is not whole.
    """
    if memory is None:
        return
    actor = config.actor_rollout_ref.actor
    if not 0 <= memory < 1:
        raise UserError(
            f"follow_snr is {memory:g}, but it is the memory of an average. Give a number from 0 "
            f"to below 1, e.g. 0.9, or null."
        )
    mini, n = actor.ppo_mini_batch_size, config.actor_rollout_ref.rollout.n
    ranks = num_ranks(config)
    if mini % 2 or mini // 2 * n % ranks:
        raise UserError(
            f"follow_snr needs two halves of a mini-batch, each of whole groups and divided over "
            f"{ranks} ranks, but actor_rollout_ref.actor.ppo_mini_batch_size is {mini} with {n} "
            f"responses a group. Use an even number whose half times {n} is a multiple of {ranks}."
        )
    size, rows = actor.ppo_micro_batch_size_per_gpu, mini // 2 * n // ranks
    if not actor.use_dynamic_bsz and size and rows % size:
        raise UserError(
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu is {size}, which does not "
            f"divide the {rows} rows of a rank in half a mini-batch, as follow_snr needs. Use a "
            f"divisor of {rows}."
        )


def check_separate(config: DictConfig) -> None:
    """Refuse settings under which verl's separate_async trainer would stop or lose updates.

    Raises:
        UserError: there is one.
    """
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
