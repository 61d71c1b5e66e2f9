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

from recipe.maths.advantages.scored import Scored
from recipe.maths.columns import (
    final_rows,
    group_numbers,
    per_response,
    prompt_of,
    row_sums,
    varies_within,
)
from recipe.maths.diagnostics import common_prefix, diagnose
from recipe.maths.rules import Rule
from recipe.training.rewards import correct, refuse_broken

FIELDS = ["advantages", "response_mask", "rm_scores", "responses", "extra_fields"]


class Responses(NamedTuple):
    """One row a response of the train batch."""

    length_N: Tensor
    """Trained tokens; 0 of padding, aborted and rejected rows."""
    advantage_N: Tensor
    """One group-relative advantage per response."""
    score_N: Tensor
    correct_N: Tensor
    """The verdict, bool."""
    truncated_N: Tensor
    """Whether it reached the length limit."""
    group_N: Tensor
    """Number of its prompt."""
    num_tokens_N: Tensor
    """Tokens, trained or not."""
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
        """What advantages are computed from: each sample, by its last output, without padding."""
        chosen = self._samples()
        return Scored(
            advantage_N=self.advantage_N[chosen],
            score_N=self.score_N[chosen],
            correct_N=self.correct_N[chosen],
            length_N=self._of_samples(self.length_N)[chosen],
            num_tokens_N=self._of_samples(self.num_tokens_N)[chosen],
            group_N=group_numbers(self.group_N[chosen].tolist()),
            info_N=[self.info_N[row] for row in chosen.tolist()],
        )

    def with_advantages(self, advantage_S: Tensor) -> "Responses":
        """With these advantages of `scored()`, all outputs of a sample alike and padding with 0."""
        advantage_N = torch.zeros(len(self.score_N), dtype=torch.double)
        advantage_N[self._samples()] = advantage_S
        return self._replace(advantage_N=advantage_N[self.final_N].where(self.length_N > 0, 0.0))

    def _of_samples(self, count_N: Tensor) -> Tensor:
        """Counts added up over the outputs of each sample, at the row of its last."""
        return torch.zeros_like(count_N).scatter_add(0, self.final_N, count_N)

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
        correct_N=correct(score_N, info_N),
        truncated_N=torch.tensor([tag["response_len"] >= limit for tag in batch.tags]),
        group_N=group_N,
        num_tokens_N=data["responses"].offsets().diff(),
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
