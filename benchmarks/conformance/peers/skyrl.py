"""Measure SkyRL: the trainer's `_normalize_advantages`, then the worker's `forward_backward`.

Replaced are the model (a table in FSDP2) and Ray, which would send each rank its part of the batch.
SkyRL scales advantages on the driver, makes micro-batches, computes the loss and its gradient.
"""

import typing
from types import SimpleNamespace
from typing import Any

import torch
import typing_extensions
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks.conformance.fixtures import BUDGET, GROUP, LIMIT, Batch, N, Split, Table
from benchmarks.conformance.harness import Setting, absent, report

# SkyRL is for Python 3.12, whose TypedDict pydantic accepts; and for GPUs.
typing.TypedDict = typing_extensions.TypedDict
absent("flash_attn")
torch.cuda.current_device = lambda: torch.device("cpu")

from skyrl.backends.skyrl_train.distributed.fsdp_strategy import FSDPStrategy  # noqa: E402
from skyrl.backends.skyrl_train.training_batch import TrainingInputBatch  # noqa: E402
from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry  # noqa: E402
from skyrl.backends.skyrl_train.workers.worker import PolicyWorkerBase  # noqa: E402
from skyrl.train.config import AlgorithmConfig  # noqa: E402
from skyrl.train.trainer import RayPPOTrainer  # noqa: E402

REDUCTIONS = (
    "token_mean",
    "token_mean_legacy",
    "sequence_mean",
    "seq_mean_token_sum_norm",
    "prompt_mean",
)
SETTINGS = [
    Setting(f"loss_reduction={name}", {"loss_reduction": name}, default=name == "token_mean")
    for name in REDUCTIONS
]
FIRST = 1000
"""The first token of response i is FIRST + i. SkyRL's own rows of padding have tokens below 100."""


class Worker(PolicyWorkerBase):
    """Hold what `forward_backward` needs of a worker."""

    def __init__(self, table: Table, cfg: Any, ranks: int) -> None:
        self.cfg, self.table = cfg, table
        self.strategy = FSDPStrategy.__new__(FSDPStrategy)
        self.optimizer, self.scheduler = None, SimpleNamespace(get_last_lr=lambda: [0.0])
        self.mesh_rank = SimpleNamespace(dp_size=ranks)
        self.device_mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("dp",))
        self.policy_loss_fn = PolicyLossRegistry.get(cfg.algorithm.policy_loss_type)
        fully_shard(table, mesh=self.device_mesh)
        self.model = Model(table)


class Model:
    """Answer with the table's log-probabilities."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def train(self) -> None:
        """Do nothing, because the table has no mode."""

    def __call__(
        self, sequences: torch.Tensor, num_actions: int, **_: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the log-probabilities of a micro-batch."""
        rows = [int(token) - FIRST for token in sequences[:, 0]]
        padding = rows[0] < 0
        log_prob = self.table([0] if padding else rows, num_actions)
        if padding:
            self.table.seen.pop()
        return log_prob, {"entropy": torch.zeros(sequences.shape)}


def step(setting: Setting, batch: Batch, split: Split, rank: int, table: Table) -> bool:
    """Leave the gradient of one mini-batch in the table."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    width = split.width or max(batch.lengths)
    mask = batch.mask(range(N), width)
    sequences = torch.zeros(N, 1 + width, dtype=torch.long)
    sequences[:, 0] = FIRST + torch.arange(N)
    columns = {
        "sequences": sequences,
        "attention_mask": torch.cat([torch.ones(N, 1), mask], 1).long(),
        "loss_mask": mask.long(),
        "response_mask": mask.long(),
        "action_log_probs": table.log_prob.detach()[:, :width].clone(),
        "advantages": torch.tensor(batch.advantages).double()[:, None] * mask,
    }
    data = TrainingInputBatch(columns)
    data.metadata = {"response_length": width}
    # If packed, it does not make the micro-batches, but `token_mean_legacy` still reads it.
    size = 2 if split.packed else len(split.ranks[rank][0])
    trainer_cfg = SimpleNamespace(
        algorithm=AlgorithmConfig(max_seq_len=LIMIT, use_kl_loss=False, **setting.values),
        micro_train_batch_size_per_gpu=size,
        max_tokens_per_microbatch=BUDGET[batch.name] if split.packed else -1,
    )
    trainer = SimpleNamespace(cfg=SimpleNamespace(trainer=trainer_cfg))
    prompts = [(start, start + GROUP) for start in range(0, N, GROUP)]
    data = RayPPOTrainer._normalize_advantages(trainer, data, [(0, N)], prompts)
    # MeshDispatch gives each rank consecutive rows.
    part = data.chunk(N // len(split.ranks))[rank]
    Worker(table, trainer_cfg, len(split.ranks)).forward_backward(part)
    return True


if __name__ == "__main__":
    report(
        "benchmarks.conformance.peers.skyrl",
        framework="SkyRL",
        package="skyrl",
        how="RayPPOTrainer._normalize_advantages() and PolicyWorkerBase.forward_backward(), FSDP2, "
        "two ranks with gloo",
        functions=[
            "skyrl/backends/skyrl_train/utils/ppo_utils.py:"
            "apply_loss_reduction_to_advantages_minibatch",
            "skyrl/backends/skyrl_train/workers/worker.py:PolicyWorkerBase.forward_backward",
        ],
    )
