"""Say on the driver which responses verl puts into one micro-batch of the actor's update."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from recipe.config.batches import sequence_parallel


def micro_batches(num_tokens_N: Tensor, ranks: int, config: DictConfig) -> Tensor | None:
    """Return the number of each response's micro-batch, from 0 on.

    Args:
        num_tokens_N: tokens of prompt and response, in the order in which the batch is sent.
        ranks: data-parallel ranks of the actor.
        config: a resolved config of the recipe.

    Returns:
        micro_N; None where nobody can tell: verl shuffles the rows, or they do not fill
        mini-batches.
    """
    actor = config.actor_rollout_ref.actor
    if actor.shuffle:
        return None
    size = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // ranks
    if len(num_tokens_N) % (size * ranks):
        return None
    row_N = torch.arange(len(num_tokens_N))
    # Each rank has a block of rows, and makes its mini-batches of them in order.
    row_RMS = row_N.view(ranks, -1, size)
    micro_N, made = torch.empty_like(row_N), 0
    for row_RS in row_RMS.transpose(0, 1):
        for rows, parts in zip(row_RS, split(num_tokens_N[row_RS], config), strict=True):
            for part in parts:
                micro_N[rows[part]] = made
                made += 1
    return micro_N


def split(num_tokens_RS: Tensor, config: DictConfig) -> list[list[list[int]]]:
    """Return the micro-batches of each rank in one mini-batch, as lists of the rank's rows.

    Args:
        num_tokens_RS: tokens of the rows of each rank, (ranks, rows).
        config: a resolved config of the recipe.
    """
    actor = config.actor_rollout_ref.actor
    if not actor.use_dynamic_bsz:
        rows = torch.arange(num_tokens_RS.shape[1])
        parts = [part.tolist() for part in rows.split(actor.ppo_micro_batch_size_per_gpu)]
        return [parts for _ in num_tokens_RS]
    limit = actor.ppo_max_token_len_per_gpu * sequence_parallel(config)
    # The same number on every rank: the smallest with which all balanced parts fit.
    num = -(-int(num_tokens_RS.sum(1).max()) // limit)
    while True:
        found: list[Any] = [
            get_seqlen_balanced_partitions(
                calculate_workload(tokens_S).tolist(), num, equal_size=False
            )
            for tokens_S in num_tokens_RS
        ]
        fits = (
            tokens_S[part].sum() <= limit
            for tokens_S, parts in zip(num_tokens_RS, found, strict=True)
            for part in parts
        )
        if all(fits):
            return found
        num += 1
