"""Read the responses of a train batch from verl's queue, on the driver."""

from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from recipe.maths.columns import (
    final_rows,
    group_numbers,
    offsets,
    per_response,
    prompt_of,
    row_sums,
)
from recipe.maths.responses import Responses
from recipe.maths.rules import MICRO
from recipe.maths.within import varies_within
from recipe.training.packing import micro_batches
from recipe.training.rewards import correct, refuse_broken

FIELDS = ["advantages", "response_mask", "rm_scores", "responses", "extra_fields"]
# Sum of the squared probabilities of all next tokens, by the name that verl gives it.
SUM_SQUARES = "sum_pi_squared"


def read_responses(
    batch: KVBatchMeta, config: DictConfig, ranks: int, squares: bool = False
) -> Responses:
    """Read a batch whose advantages verl has computed.

    Args:
        batch: in the order in which it is sent to the actor.
        config: a resolved config of the recipe.
        ranks: data-parallel ranks of the actor.
        squares: whether the advantage needs `square_N`, and verl computed what it is made of.

    Raises:
        RewardError: a response has no reward.
    """
    fields = [*FIELDS, "old_log_probs", SUM_SQUARES] if squares else FIELDS
    data: Any = tq.kv_batch_get(batch.keys, str(batch.partition_id), select_fields=fields)
    length_N, advantage_N = per_response(data["response_mask"], data["advantages"])
    score_N = row_sums(data["rm_scores"])
    info_N = [extra.get("reward_extra_info", {}) for extra in data["extra_fields"]]
    refuse_broken(score_N, info_N)
    group_N = group_numbers([prompt_of(key) for key in batch.keys])
    if not config.algorithm.use_kl_in_reward:
        # Equal scores have advantage 0, but for the rounding of their mean.
        advantage_N = advantage_N.where(varies_within(score_N, group_N), 0.0)
    micro_N = None
    if config.aggregation.rule == MICRO:
        # With many micro-batches this takes seconds.
        micro_N = micro_batches(torch.tensor([tag["seq_len"] for tag in batch.tags]), ranks, config)
    limit = config.data.max_response_length
    return Responses(
        length_N=length_N,
        advantage_N=advantage_N,
        score_N=score_N,
        correct_N=correct(score_N, info_N),
        truncated_N=torch.tensor([tag["response_len"] >= limit for tag in batch.tags]),
        group_N=group_N,
        num_tokens_N=offsets(data["responses"]).diff(),
        real_N=torch.tensor([not tag.get("is_padding", False) for tag in batch.tags]),
        micro_N=micro_N,
        final_N=final_rows(batch.keys),
        info_N=info_N,
        mask_NT=data["response_mask"],
        tokens_NT=data["responses"],
        square_N=logit_squares(data) if squares else None,
    )


def logit_squares(data: Any) -> Tensor:
    """Return |d log pi / d logits|^2 = 1 - 2 pi + sum_v pi_v^2, added up over trained tokens, (N,).

    Args:
        data: columns of verl: `old_log_probs` and `response_mask`, nested over the response, and
            `sum_pi_squared`, nested over prompt and response and shifted left by one token.
    """
    mask_NT = data["response_mask"]
    sum_NT = response_from_nested(data[SUM_SQUARES], mask_NT)
    square = 1 - 2 * data["old_log_probs"].values().exp() + sum_NT.values()
    trained = square.double() * mask_NT.values()
    return row_sums(torch.nested.nested_tensor_from_jagged(trained, offsets(mask_NT)))
