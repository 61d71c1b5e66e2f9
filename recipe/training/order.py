"""Order a train batch such that parts of it hold complete groups of responses."""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from recipe.maths.columns import final_rows, group_numbers, prompt_of


def complete_groups(
    keys: Sequence[str], tags: Sequence[dict[str, Any]], ranks: int, size: int, asked_by: str
) -> list[list[int]]:
    """Return balanced rows of each rank such that every `size` rows of all ranks are whole groups.

    verl gives each rank a run of rows, and cuts it into as many parts as there are.

    Args:
        keys: the key of each response in verl's queue.
        tags: what verl notes of each response, such as `seq_len`.
        ranks: data-parallel ranks of the actor.
        size: rows of a part: of all ranks together.
        asked_by: the setting that needs it, for the messages.

    Raises:
        ValueError: a sample has several outputs.
        RuntimeError: the groups, of unequal size, do not fill the parts.
    """
    if (final_rows(list(keys)) != torch.arange(len(keys))).any():
        raise ValueError(
            f"the agent loop returned several outputs of a sample, but {asked_by} needs responses "
            f"of one output. Use an agent loop that returns one, or leave {asked_by} out."
        )
    if len(keys) == size:
        # One part holds all rows whatever their order, and verl has balanced them.
        return torch.arange(size).view(ranks, -1).tolist()
    # Rows of padding may go anywhere, so each is a group of its own.
    names = [
        key if tag.get("is_padding", False) else prompt_of(key)
        for key, tag in zip(keys, tags, strict=True)
    ]
    tokens_N = torch.tensor([tag["seq_len"] for tag in tags])
    work_N = calculate_workload(tokens_N)
    order: list[list[int]] = [[] for _ in range(ranks)]
    for rows in packed(by_lengths(group_numbers(names), tokens_N), size, asked_by):
        work: Any = work_N[rows]
        parts: Any = get_seqlen_balanced_partitions(work, ranks, equal_size=True)
        for rank, part in enumerate(parts):
            order[rank] += [rows[place] for place in part]
    return order


def by_lengths(group_N: Tensor, tokens_N: Tensor) -> Tensor:
    """Number groups anew, by a checksum of their rows' lengths.

    verl's order is that of arrival, and its names are random. By this number the same responses are
    together again in a run that goes on, and parts are not sorted by length.
    """
    lengths = [sorted(tokens_N[group_N == g].tolist()) for g in range(int(group_N.max()) + 1)]
    sums = [crc32(repr(of_group).encode()) for of_group in lengths]
    number = torch.empty(len(sums), dtype=torch.long)
    number[sorted(range(len(sums)), key=sums.__getitem__)] = torch.arange(len(sums))
    return number[group_N]


def packed(group_N: Tensor, size: int, asked_by: str) -> list[list[int]]:
    """Put rows into bins of `size`, each group in one bin: the largest group first.

    Raises:
        RuntimeError: a group fits nowhere.
    """
    bins: list[list[int]] = [[] for _ in range(len(group_N) // size)]
    members: list[list[int]] = [[] for _ in range(int(group_N.max()) + 1)]
    for row, group in enumerate(group_N.tolist()):
        members[group].append(row)
    for group in sorted(members, key=len, reverse=True):
        room = next((rows for rows in bins if len(rows) + len(group) <= size), None)
        if room is None:
            sizes = sorted({len(group) for group in members})
            raise RuntimeError(
                f"groups of {', '.join(map(str, sizes))} responses do not fit whole into "
                f"{len(bins)} parts of {size}, as {asked_by} needs. Rollouts were lost; the same "
                f"command goes on from the last checkpoint, and larger mini-batches "
                f"(actor_rollout_ref.actor.ppo_mini_batch_size, at most data.train_batch_size) "
                f"have more room."
            )
        room += group
    return bins
