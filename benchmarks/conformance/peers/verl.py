"""Measure verl: `FSDPEngine.forward_backward_batch` with `ppo_loss`, on a table in FSDP2.

Replaced is the forward pass of the model. verl counts the tokens, makes the micro-batches, pads,
computes the loss and its gradient; torch's FSDP2 reduces it over ranks with gloo.
"""

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from benchmarks.conformance.fixtures import BUDGET, LIMIT, Batch, N, Split, Table
from benchmarks.conformance.harness import Setting, report

NORM = "seq-mean-token-sum-norm"
SETTINGS = [
    Setting("loss_agg_mode=token-mean", {"loss_agg_mode": "token-mean"}, default=True),
    Setting("loss_agg_mode=token-sum", {"loss_agg_mode": "token-sum"}),
    Setting("loss_agg_mode=seq-mean-token-sum", {"loss_agg_mode": "seq-mean-token-sum"}),
    Setting("loss_agg_mode=seq-mean-token-mean", {"loss_agg_mode": "seq-mean-token-mean"}),
    Setting(f"loss_agg_mode={NORM}", {"loss_agg_mode": NORM}),
    Setting(
        f"loss_agg_mode={NORM}, loss_scale_factor=LIMIT",
        {"loss_agg_mode": NORM, "loss_scale_factor": LIMIT},
    ),
    Setting(
        "loss_agg_mode=token-mean, policy_loss.loss_mode=geo_mean",
        {"loss_agg_mode": "token-mean", "policy_loss": {"loss_mode": "geo_mean"}},
        other_loss=True,
    ),
    Setting(
        "loss_agg_mode=token-mean, policy_loss.loss_mode=gspo",
        {"loss_agg_mode": "token-mean", "policy_loss": {"loss_mode": "gspo"}},
        other_loss=True,
    ),
    Setting(
        "loss_agg_mode=token-mean, policy_loss.loss_mode=sapo",
        {"loss_agg_mode": "token-mean", "policy_loss": {"loss_mode": "sapo"}},
        other_loss=True,
    ),
]


class Engine(FSDPEngine):
    """Hold what `forward_backward_batch` needs of an engine."""

    def __init__(self, table: Table) -> None:
        self.module, self.table = table, table
        self.ulysses_device_mesh, self.ulysses_sequence_parallel_size = None, 1
        self.engine_config = None

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the loss of a micro-batch."""
        rows = [int(row) for row in micro_batch["row"]]
        lengths = [int(mask_T.sum()) for mask_T in micro_batch["response_mask"].unbind()]
        value_NT = self.module(rows, max(lengths))
        # verl reads the log-probability of token t at position t - 1; the prompt has one token.
        full = [
            torch.nn.functional.pad(value_T[:length], (0, 1))
            for value_T, length in zip(value_NT, lengths, strict=True)
        ]
        log_probs = torch.nested.as_nested_tensor(full, layout=torch.jagged)
        loss, metrics = loss_function(
            model_output={"log_probs": log_probs},
            data=micro_batch,
            dp_group=self.get_data_parallel_group(),
        )
        return loss, {"loss": loss.detach().item(), "metrics": metrics}


def nested_columns(batch: Batch, rows: list[int], table: Table) -> TensorDict:
    """Return the rows as the trainer has them, without padding."""

    def nested(value: Any) -> torch.Tensor:
        return torch.nested.as_nested_tensor([value(row) for row in rows], layout=torch.jagged)

    lengths = batch.lengths
    columns = {
        "input_ids": nested(lambda row: torch.zeros(1 + lengths[row], dtype=torch.long)),
        "prompts": nested(lambda row: torch.zeros(1, dtype=torch.long)),
        "responses": nested(lambda row: torch.zeros(lengths[row], dtype=torch.long)),
        "response_mask": nested(lambda row: torch.ones(lengths[row], dtype=torch.long)),
        "loss_mask": nested(lambda row: torch.ones(lengths[row], dtype=torch.long)),
        "old_log_probs": nested(lambda row: table.log_prob.detach()[row, : lengths[row]]),
        "advantages": nested(
            lambda row: torch.full((lengths[row],), batch.advantages[row]).double()
        ),
    }
    return TensorDict({"row": torch.tensor(rows), **columns}, batch_size=len(rows))


def padded_columns(batch: Batch, rows: list[int], table: Table, width: int) -> TensorDict:
    """Return the rows as the trainer before V1 has them: padded to the length limit."""
    mask = batch.mask(rows, width)
    attention = torch.cat([torch.ones(len(rows), 1, dtype=torch.bool), mask], 1).long()
    columns = {
        "input_ids": torch.zeros_like(attention),
        "attention_mask": attention,
        "position_ids": attention.cumsum(1) - 1,
        "prompts": torch.zeros(len(rows), 1, dtype=torch.long),
        "responses": torch.zeros(len(rows), width, dtype=torch.long),
        "response_mask": mask.long(),
        "old_log_probs": table.log_prob.detach()[rows, :width],
        "advantages": torch.tensor(batch.advantages).double()[rows, None] * mask,
    }
    data = TensorDict({"row": torch.tensor(rows), **columns}, batch_size=len(rows))
    return left_right_2_no_padding(data)


def step(setting: Setting, batch: Batch, split: Split, rank: int, table: Table) -> bool:
    """Leave the gradient of one mini-batch in the table."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    micro_batches = split.ranks[rank]
    rows = [row for rows in micro_batches for row in rows]
    if split.width:
        data = padded_columns(batch, rows, table, split.width)
    else:
        data = nested_columns(batch, rows, table)
    tu.assign_non_tensor(
        data,
        global_batch_size=N,
        use_dynamic_bsz=split.packed,
        max_token_len_per_gpu=BUDGET[batch.name],
        micro_batch_size_per_gpu=len(micro_batches[0]),
    )
    mesh = init_device_mesh("cpu", (len(split.ranks),))
    fully_shard(table, mesh=mesh)
    config = ActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        use_dynamic_bsz=True,
        ppo_max_token_len_per_gpu=BUDGET[batch.name],
        **setting.values,
    )
    engine = Engine(table)
    engine.forward_backward_batch(data, partial(ppo_loss, config=config))
    return True


if __name__ == "__main__":
    report(
        "benchmarks.conformance.peers.verl",
        framework="verl",
        package="verl",
        how="FSDPEngine.forward_backward_batch(), FSDP2, two ranks with gloo",
        functions=[
            "verl/workers/utils/losses.py:ppo_loss",
            "verl/trainer/ppo/core_algos.py:agg_loss",
        ],
    )
