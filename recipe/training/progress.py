"""Have a judge say how far responses are right, in groups in which every one is incorrect."""

from typing import Any

import torch
import transfer_queue as tq
from torch import Tensor
from transfer_queue import KVBatchMeta

from recipe.maths.columns import offsets
from recipe.maths.responses import Responses
from recipe.maths.within import mean_within
from reward.steps import Attempt, StepJudge


def judged(
    batch: KVBatchMeta, rows: Responses, tokenizer: Any, judge: StepJudge
) -> tuple[Tensor, dict[str, float]]:
    """Return the share of each response before its first wrong step, (N,), and metrics.

    Args:
        batch: the rows in verl's queue.
        rows: the same, read. Of a sample with several outputs, the last is judged.
        tokenizer: decodes responses.
        judge: judges them.

    Returns:
        progress_N, NaN where there is no verdict or none was asked for.
    """
    final = rows.samples()
    rate_S = mean_within(rows.correct_N[final].double(), rows.group_N[final])
    chosen = final[rate_S == 0].tolist()
    progress_N = torch.full((len(rows.score_N),), torch.nan, dtype=torch.double)
    if not chosen:
        return progress_N, {"judge/responses": 0.0}
    data: Any = tq.kv_batch_get(
        [batch.keys[row] for row in chosen],
        str(batch.partition_id),
        select_fields=["raw_prompt", "reward_model"],
    )
    begins, tokens = offsets(rows.tokens_NT).tolist(), rows.tokens_NT.values()
    asked = {}
    for row, prompt, truth in zip(chosen, data["raw_prompt"], data["reward_model"], strict=True):
        own = tokens[begins[row] : begins[row + 1]]
        text = tokenizer.decode(own, skip_special_tokens=True)
        if text.strip():
            asked[row] = Attempt(str(prompt[-1]["content"]), text, str(truth["ground_truth"]))
        else:
            # Nothing of an empty response is right, and there is nothing to ask.
            progress_N[row] = 0.0
    shares = judge(list(asked.values()))
    for row, share in zip(asked, shares, strict=True):
        if share is not None:
            progress_N[row] = share
    return progress_N, {
        "judge/responses": float(len(shares)),
        "judge/failures": sum(share is None for share in shares) / max(len(shares), 1),
    }
