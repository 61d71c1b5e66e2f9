"""Measure TRL: `GRPOTrainer.train()` runs one optimizer step, with a table in place of a model.

Replaced are generation (the fixture's responses), the forward pass (the table's log-probabilities)
and the shuffling of the generation batch (none). The rest is TRL's.
"""

import tempfile
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import grpo_trainer

from benchmarks.conformance.fixtures import GROUP, GROUPS, LIMIT, Batch, N, Split, Table
from benchmarks.conformance.harness import Setting, report

FIRST = 3
"""The token that begins the completion of response 0; response i begins with FIRST + i."""
LOSS_TYPES = ("dapo", "grpo", "dr_grpo", "bnpo", "luspo", "cispo", "sapo", "vespo")
OTHER_LOSSES = ("cispo", "sapo", "vespo")
PLAIN = [
    Setting(f"loss_type={name}", {"loss_type": name}, name == "dapo", name in OTHER_LOSSES)
    for name in LOSS_TYPES
]
MORE = [
    {"loss_type": "cispo", "epsilon_high": 5.0},
    {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    {"loss_type": "dapo", "importance_sampling_level": "sequence"},
    {"loss_type": "luspo", "importance_sampling_level": "sequence"},
]
SETTINGS = PLAIN + [
    Setting(", ".join(f"{key}={value}" for key, value in more.items()), more, other_loss=True)
    for more in MORE
]
transformers.logging.set_verbosity_error()


class Model(PreTrainedModel):
    """Wrap the table as a model, so that the Trainer and DDP see its forward pass."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, table: Table) -> None:
        super().__init__(config)
        self.table = table
        self.warnings_issued: dict[str, bool] = {}
        self.generation_config = GenerationConfig()

    def forward(self, input_ids: torch.Tensor, width: int) -> torch.Tensor:
        """Return the log-probabilities of a micro-batch."""
        return self.table([token - FIRST for token in input_ids[:, -width].tolist()], width)


class Trainer(GRPOTrainer):
    """Give the fixture's responses, and the table's log-probabilities of them."""

    lengths: tuple[int, ...]

    def _generate_single_turn(
        self, prompt_ids: list, images: Any, multimodal_fields: Any, num_generations: int
    ) -> tuple[list[list[int]], None]:
        first = self.accelerator.process_index * len(prompt_ids)
        rows = range(first, first + len(prompt_ids))
        return [[FIRST + row] + [2] * (self.lengths[row] - 1) for row in rows], None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        log_prob = model(input_ids, logits_to_keep)
        return log_prob, torch.zeros_like(log_prob), None


class Keep(TrainerCallback):
    """Copy the gradient that the optimizer would see."""

    def __init__(self, table: Table) -> None:
        self.table, self.gradient = table, None

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Copy it after the Trainer has accumulated and reduced it."""
        self.gradient = self.table.log_prob.grad.clone()


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows one word for each prompt."""
    words = {"<pad>": 0, "</s>": 1, "word": 2} | {f"w{i}": FIRST + i for i in range(N)}
    made = Tokenizer(models.WordLevel(words, unk_token="word"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def train(
    of: type[Trainer], values: dict[str, Any], batch: Batch, split: Split, rank: int, table: Table
) -> None:
    """Train one optimizer step, and leave its gradient in the table."""
    micro_batches = split.ranks[rank]

    def fixed_rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [batch.advantages[ids[0] - FIRST] for ids in completion_ids]

    grpo_trainer.shuffle_sequence_dict = lambda data: data
    with tempfile.TemporaryDirectory() as folder:
        trainer = of(
            model=Model(PreTrainedConfig(), table),
            reward_funcs=fixed_rewards,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=False,
                max_steps=1,
                max_grad_norm=0.0,
                per_device_train_batch_size=len(micro_batches[0]),
                gradient_accumulation_steps=len(micro_batches),
                num_generations=GROUP,
                max_completion_length=LIMIT,
                pad_to_multiple_of=split.width,
                shuffle_dataset=False,
                scale_rewards="none",
                **values,
            ),
            train_dataset=Dataset.from_dict({"prompt": [f"w{i}" for i in range(GROUPS)]}),
            processing_class=tokenizer(),
        )
        trainer.lengths = batch.lengths
        keep = Keep(table)
        trainer.add_callback(keep)
        trainer.train()
    table.log_prob.grad = keep.gradient


def step(setting: Setting, batch: Batch, split: Split, rank: int, table: Table) -> bool:
    """Train one optimizer step. TRL's micro-batches all have the same number of responses."""
    if split.packed:
        return False
    train(Trainer, setting.values, batch, split, rank, table)
    return True


if __name__ == "__main__":
    report(
        "benchmarks.conformance.peers.trl",
        framework="TRL",
        package="trl",
        how="GRPOTrainer.train(), two ranks with accelerate and gloo",
        functions=["trl/trainer/grpo_trainer.py:GRPOTrainer._compute_loss"],
    )
