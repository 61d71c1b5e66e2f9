"""What DisCO needs of a train batch, on the driver: groups and verdicts, in whole mini-batches."""

import torch
from omegaconf import DictConfig
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

from recipe.maths.columns import final_rows, group_numbers, prompt_of, varies_within
from recipe.objectives.disco_loss import CORRECT_COLUMN, GROUP_COLUMN
from recipe.training.responses import Responses


def disco_columns(rows: Responses) -> dict[str, Tensor]:
    """Return what the loss needs of each row: its verdict and its group, -1 if not trained.

    Raises:
        ValueError: responses of a group that are both right, or both wrong, differ in score.
    """
    graded_N = varies_within(rows.score_N, 2 * rows.group_N + rows.correct_N)
    if graded_N.any():
        group = rows.group_N[graded_N][0]
        values = rows.score_N[rows.group_N == group].unique().tolist()
        raise ValueError(
            f"DisCO sets right responses against wrong ones and reads nothing else, but responses "
            f"of one prompt have the scores {', '.join(f'{value:.3g}' for value in values)}. Use "
            f"a reward that is right or wrong, or objective=policy_gradient."
        )
    group_N = rows.group_N.where(rows.length_N > 0, -1)
    return {GROUP_COLUMN: group_N, CORRECT_COLUMN: rows.correct_N.float()}


def is_on_policy(config: DictConfig, num_rows: int) -> bool:
    """Whether a batch makes one update, from the policy whose log-probs are the old ones."""
    actor, n = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.n
    one_update = num_rows == actor.ppo_mini_batch_size * n and actor.ppo_epochs == 1
    v1 = config.trainer.v1
    # verl then computes the old log-probs of a step's later mini-batches under its first model.
    stale = v1.trainer_mode == "separate_async" and v1.separate_async.parameter_sync_step > 1
    return one_update and not stale and not config.algorithm.rollout_correction.bypass_mode


def whole_groups(batch: KVBatchMeta, config: DictConfig, ranks: int) -> list[list[int]]:
    """Rows of each rank, balanced, so that every mini-batch of all ranks holds whole groups.

    verl gives each of the data-parallel ranks a run of rows, and cuts it into as many mini-batches.

    Raises:
        ValueError: a sample has several outputs.
        RuntimeError: the groups, of unequal size, do not fill mini-batches.
    """
    if (final_rows(batch.keys) != torch.arange(len(batch.keys))).any():
        raise ValueError(
            "the agent loop returned several outputs of a sample, but DisCO compares responses of "
            "one output. Use an agent loop that returns one, or objective=policy_gradient."
        )
    size = config.actor_rollout_ref.actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    if len(batch.keys) == size:
        # One mini-batch holds them whatever their order, which verl has balanced.
        return torch.arange(size).view(ranks, -1).tolist()
    # Each row of padding may go anywhere.
    names = [
        key if tag.get("is_padding", False) else prompt_of(key)
        for key, tag in zip(batch.keys, batch.tags, strict=True)
    ]
    work_N = calculate_workload(torch.tensor([tag["seq_len"] for tag in batch.tags]))
    order: list[list[int]] = [[] for _ in range(ranks)]
    for rows in packed(group_numbers(names), size):
        parts: list[list[int]] = get_seqlen_balanced_partitions(
            work_N[rows], ranks, equal_size=True
        )
        for rank, part in enumerate(parts):
            order[rank] += [rows[place] for place in part]
    return order


def packed(group_N: Tensor, size: int) -> list[list[int]]:
    """Rows in bins of `size`, each group in one bin: the largest first, where there is room.

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
                f"{len(bins)} mini-batches of {size}, as DisCO needs. Rollouts were lost; the same "
                f"command goes on from the last checkpoint, and with one mini-batch a step "
                f"(actor_rollout_ref.actor.ppo_mini_batch_size=data.train_batch_size) any fit."
            )
        room += group
    return bins
