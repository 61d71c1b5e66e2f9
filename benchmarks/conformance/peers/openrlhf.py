"""Measure OpenRLHF: `ActorPPOTrainer.ppo_train` on a DeepSpeed engine that trains a table.

Replaced are the model, and what asks for a GPU. OpenRLHF counts tokens, makes and pads the
micro-batches and computes the loss; DeepSpeed divides by the accumulation steps and reduces the
gradient over ranks with gloo.
"""

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.conformance.fixtures import BUDGET, Batch, N, Split, Table
from benchmarks.conformance.harness import Setting, absent, report

os.environ["DS_ACCELERATOR"] = "cpu"
absent("flash_attn", "vllm")
torch.cuda.set_device = lambda device: None
torch.cuda.synchronize = lambda: None

import deepspeed  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ray import ppo_actor  # noqa: E402
from openrlhf.utils.deepspeed import DeepspeedStrategy  # noqa: E402
from openrlhf.utils.deepspeed import deepspeed as strategy_module  # noqa: E402

strategy_module.init_device_mesh = lambda device, *args, **named: init_device_mesh(
    "cpu", *args, **named
)

SETTINGS = [
    Setting("actor.loss_agg_mode=token-mean", {"loss_agg_mode": "token-mean"}, default=True),
    Setting("actor.loss_agg_mode=seq-mean-token-mean", {"loss_agg_mode": "seq-mean-token-mean"}),
    Setting(
        "actor.loss_agg_mode=token-mean, actor.policy_loss_type=gspo",
        {"loss_agg_mode": "token-mean", "policy_loss_type": "gspo"},
        other_loss=True,
    ),
]


class Strategy(DeepspeedStrategy):
    """Keep the gradient of the optimizer step."""

    gradient: torch.Tensor

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any, **_: Any) -> None:
        """Copy the gradient, then let DeepSpeed step with a learning rate of 0."""
        engine = model.engine
        if engine.is_gradient_accumulation_boundary():
            self.gradient = engine.module.log_prob.grad.clone()
        super().optimizer_step(optimizer, engine, scheduler)

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any, **_: Any) -> None:
        """Let DeepSpeed scale and reduce the gradient."""
        super().backward(loss, model.engine, optimizer)


class Actor:
    """Answer with the table's log-probabilities."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def train(self) -> None:
        """Do nothing, because the table has no mode."""

    def __call__(
        self, sequences: torch.Tensor, action_mask: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor, SimpleNamespace]:
        """Return the log-probabilities of a micro-batch."""
        return self.engine(sequences[:, 0].tolist(), action_mask.shape[1]), SimpleNamespace()


def arguments(setting: Setting, batch: Batch, split: Split) -> SimpleNamespace:
    """Return the arguments that are read, by the names of the command line."""
    correction = {
        f"is_correction_{name}": value
        for name, value in (
            ("level", "off"),
            ("mode", "mask"),
            ("gating", "ratio"),
            ("threshold", [0.5, 5.0]),
        )
    }
    actor = {"eps_clip_low_high": (0.2, 0.2), "dual_clip": None, "policy_loss_type": "ppo"}
    actor |= {"aux_loss_coef": 0.0, "entropy_coef": None} | setting.values
    train = {"max_epochs": 1, "batch_size": N, "dynamic_batch_enable": split.packed}
    train["max_tokens_per_gpu"] = BUDGET[batch.name]
    return SimpleNamespace(
        actor=SimpleNamespace(**actor),
        train=SimpleNamespace(**train),
        rollout=SimpleNamespace(batch_size=N, n_samples_per_prompt=1),
        ds=SimpleNamespace(
            param_dtype="fp32", packing_samples=False, ring_attn_size=1, tensor_parallel_size=1
        ),
        algo=SimpleNamespace(
            advantage=SimpleNamespace(**correction), kl=SimpleNamespace(use_loss=False)
        ),
        vllm=SimpleNamespace(sync_backend="gloo"),
        local_rank=-1,
    )


def experience(batch: Batch, row: int, table: Table, width: int) -> Experience:
    """Return one response, as the replay buffer has it."""
    mask = batch.mask([row], width)[0]
    sequences = torch.full((1 + width,), row)
    return Experience(
        sequences=sequences,
        attention_mask=torch.cat([torch.ones(1), mask]).long(),
        action_mask=mask,
        action_log_probs=table.log_prob.detach()[row, :width].clone(),
        advantages=batch.advantages[row] * mask.float(),
        total_length=torch.tensor(1 + batch.lengths[row]),
        info={},
    )


def step(setting: Setting, batch: Batch, split: Split, rank: int, table: Table) -> bool:
    """Train one optimizer step of DeepSpeed."""
    table.float()  # DeepSpeed reduces no float64.
    micro_batches = split.ranks[rank]
    args = arguments(setting, batch, split)
    size = len(micro_batches[0])
    strategy = Strategy(
        max_norm=0.0, micro_train_batch_size=size, train_batch_size=N, zero_stage=0, args=args
    )
    strategy.setup_distributed()
    # OpenRLHF's own prepare() chooses an optimizer that DeepSpeed compiles. This step has none.
    engine, optimizer, *_ = deepspeed.initialize(
        model=table,
        optimizer=torch.optim.SGD(table.parameters(), lr=0.0),
        config=strategy.get_ds_train_config(max_norm=0.0),
        dist_init_required=False,
    )
    # The replay buffer names a GPU that it does not use here.
    torch.cuda.current_device = lambda: 0
    trainer = ppo_actor.ActorPPOTrainer(
        strategy,
        Actor(engine),
        None,
        optimizer,
        SimpleNamespace(get_last_lr=lambda: [0.0]),
        micro_train_batch_size=size,
        dataloader_pin_memory=False,
    )
    rows = [row for rows in micro_batches for row in rows]
    trainer.replay_buffer.items = [
        experience(batch, row, table, split.width or batch.lengths[row]) for row in rows
    ]
    torch.cuda.current_device = lambda: torch.device("cpu")
    ppo_actor.DataLoader = in_order
    trainer.ppo_train(kl_ctl=0.0)
    table.log_prob.grad = strategy.gradient
    return True


def in_order(*args: Any, **named: Any) -> torch.utils.data.DataLoader:
    """Return OpenRLHF's loader without its shuffling, so that micro-batches are the fixture's."""
    return torch.utils.data.DataLoader(*args, **named | {"shuffle": False})


if __name__ == "__main__":
    report(
        "benchmarks.conformance.peers.openrlhf",
        framework="OpenRLHF",
        package="openrlhf",
        how="ActorPPOTrainer.ppo_train() on DeepSpeed (ZeRO stage 0), two ranks with gloo",
        functions=[
            "openrlhf/models/loss.py:aggregate_loss",
            "openrlhf/utils/loss_utils.py:iter_grad_accum_global_norm",
        ],
    )
