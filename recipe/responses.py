"""The responses of a train batch on the driver, read from verl's queue, and what is made of them.

Axes: `_N` rows (padding among them), `_P` groups, `_T` tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

from recipe.advantages.scored import Scored
from recipe.aggregation import Rule
from recipe.columns import (
    final_rows,
    group_numbers,
    per_response,
    prompt_of,
    row_sums,
    varies_within,
)
from recipe.diagnostics import common_prefix, diagnose
from recipe.disco_loss import GROUP_COLUMN, RIGHT_COLUMN
from recipe.rewards import components, refuse_broken, right

FIELDS = ["advantages", "response_mask", "rm_scores", "responses", "extra_fields"]


class Responses(NamedTuple):
    """One row a response of the train batch."""

    length_N: Tensor
    """Trained tokens; 0 of padding, aborted and rejected rows."""
    advantage_N: Tensor
    """One group-relative advantage per response."""
    score_N: Tensor
    right_N: Tensor
    """The verdict, bool."""
    truncated_N: Tensor
    """Whether it reached the length limit."""
    group_N: Tensor
    """Number of its prompt."""
    real_N: Tensor
    """Whether it is a response, not a row of padding."""
    final_N: Tensor
    """The row of its sample's last output."""
    info_N: Sequence[Mapping[str, Any]]
    """What the reward returned."""
    mask_NT: Tensor
    """Nested, 1 on trained tokens."""
    tokens_NT: Tensor
    """Nested token ids."""

    def scored(self) -> Scored:
        """What advantages are computed from: the last output of each sample, without padding."""
        chosen = self._samples()
        return Scored(
            advantage_N=self.advantage_N[chosen],
            score_N=self.score_N[chosen],
            right_N=self.right_N[chosen],
            length_N=self.length_N[chosen],
            group_N=group_numbers(self.group_N[chosen].tolist()),
            components=components([self.info_N[row] for row in chosen.tolist()]),
        )

    def with_advantages(self, advantage_S: Tensor) -> "Responses":
        """With these advantages of `scored()`, all outputs of a sample alike and padding with 0."""
        advantage_N = torch.zeros(len(self.score_N), dtype=torch.double)
        advantage_N[self._samples()] = advantage_S
        return self._replace(advantage_N=advantage_N[self.final_N].where(self.length_N > 0, 0.0))

    def _samples(self) -> Tensor:
        is_final_N = self.final_N == torch.arange(len(self.final_N))
        return (is_final_N & self.real_N).nonzero()[:, 0]


def read_responses(batch: KVBatchMeta, config: DictConfig) -> Responses:
    """Read a batch whose advantages verl has computed.

    Raises:
        RewardError: a response has no reward.
    """
    data = tq.kv_batch_get(batch.keys, batch.partition_id, select_fields=FIELDS)
    length_N, advantage_N = per_response(data["response_mask"], data["advantages"])
    score_N = row_sums(data["rm_scores"])
    info_N = [extra.get("reward_extra_info", {}) for extra in data["extra_fields"]]
    refuse_broken(score_N, info_N)
    group_N = group_numbers([prompt_of(key) for key in batch.keys])
    if not config.algorithm.use_kl_in_reward:
        # Equal scores have advantage 0, but for the rounding of their mean.
        advantage_N = advantage_N.where(varies_within(score_N, group_N), 0.0)
    limit = config.data.max_response_length
    return Responses(
        length_N=length_N,
        advantage_N=advantage_N,
        score_N=score_N,
        right_N=right(score_N, info_N),
        truncated_N=torch.tensor([tag["response_len"] >= limit for tag in batch.tags]),
        group_N=group_N,
        real_N=torch.tensor([not tag.get("is_padding", False) for tag in batch.tags]),
        final_N=final_rows(batch.keys),
        info_N=info_N,
        mask_NT=data["response_mask"],
        tokens_NT=data["responses"],
    )


def describe(
    rows: Responses, counted_N: Tensor, rules: Mapping[str, Rule], chosen: str | None
) -> dict[str, float]:
    """The diagnostics of the counted rows under every rule; without the chosen one's if None."""
    if not counted_N.any():
        return {}
    length_C, advantage_C, group_C = (
        x[counted_N] for x in (rows.length_N, rows.advantage_N, rows.group_N)
    )
    weights = {name: weigh(length_C, advantage_C, group_C) for name, weigh in rules.items()}
    offsets = rows.tokens_NT.offsets()
    prefix_P = common_prefix(
        rows.tokens_NT.values(), offsets[:-1][counted_N], offsets.diff()[counted_N], group_C
    )
    return diagnose(length_C, advantage_C, group_C, weights, chosen, prefix_P)


def disco_columns(rows: Responses) -> dict[str, Tensor]:
    """What `recipe.disco_loss` needs of each row: its group, -1 where nothing is trained.

    Raises:
        ValueError: responses of a group that are both right, or both wrong, differ in score.
    """
    score_N = rows.score_N.where(rows.real_N, 0.0)
    graded_N = varies_within(score_N, 2 * rows.group_N + rows.right_N)
    if graded_N.any():
        group = rows.group_N[graded_N][0]
        values = rows.score_N[rows.group_N == group].unique().tolist()
        raise ValueError(
            f"DisCO sets right responses against wrong ones and reads nothing else, but responses "
            f"of one prompt have the scores {', '.join(f'{value:.3g}' for value in values)}. Use "
            f"a reward that is right or wrong, or objective=policy_gradient."
        )
    group_N = rows.group_N.where(rows.length_N > 0, -1)
    return {GROUP_COLUMN: group_N, RIGHT_COLUMN: rows.right_N.float()}


def whole_groups(batch: KVBatchMeta, config: DictConfig) -> list[int]:
    """An order of the rows in which every mini-batch holds whole groups, balanced over the ranks.

    verl gives each rank a run of rows and cuts it into as many mini-batches.

    Raises:
        RuntimeError: the groups, of unequal size, do not fill mini-batches.
    """
    actor = config.actor_rollout_ref.actor
    sequence_ranks = actor.get("ulysses_sequence_parallel_size", 1)
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes // sequence_ranks
    # Each row of padding may go anywhere.
    names = [
        key if tag.get("is_padding", False) else prompt_of(key)
        for key, tag in zip(batch.keys, batch.tags, strict=True)
    ]
    tokens = [tag["seq_len"] for tag in batch.tags]
    size = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    order: list[list[int]] = [[] for _ in range(ranks)]
    for rows in packed(group_numbers(names), size):
        parts: list[list[int]] = get_seqlen_balanced_partitions(
            [tokens[row] for row in rows], ranks, equal_size=True
        )
        for rank, part in enumerate(parts):
            order[rank] += [rows[place] for place in part]
    return [row for part in order for row in part]


def packed(group_N: Tensor, size: int) -> list[list[int]]:
    """Rows in bins of `size`, each group in one bin: the largest first, where there is room.

    Raises:
        RuntimeError: a group fits nowhere.
    """
    count_P = torch.bincount(group_N)
    bins: list[list[int]] = [[] for _ in range(len(group_N) // size)]
    members: list[list[int]] = [[] for _ in count_P]
    for row, group in enumerate(group_N.tolist()):
        members[group].append(row)
    for group in sorted(members, key=len, reverse=True):
        room = next((rows for rows in bins if len(rows) + len(group) <= size), None)
        if room is None:
            raise RuntimeError(
                f"groups of {count_P.unique().tolist()} responses do not fit whole into "
                f"{len(bins)} mini-batches of {size}, as DisCO needs. Train with one mini-batch a "
                f"step: actor_rollout_ref.actor.ppo_mini_batch_size=data.train_batch_size."
            )
        room += group
    return bins
