"""Measure Unsloth: its loss function alone, in the training step of the TRL that it asks for.

Unsloth does not import without a GPU. So the functions named in `ALONE` are read out of the
installed files and run by themselves. TRL's trainer accumulates and reduces over ranks, as it does
under Unsloth; this script passes the loss the arguments that Unsloth's trainer passes.
"""

import ast
import math
import os
from importlib.metadata import distribution
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.conformance.fixtures import Batch, Split, Table
from benchmarks.conformance.harness import Setting, report
from benchmarks.conformance.peers.trl import PLAIN, Trainer, train

ALONE = {
    "unsloth_zoo/rl_replacements.py": ("grpo_compute_loss",),
    "unsloth/models/rl_replacements.py": (
        "_unsloth_grpo_accumulation_steps",
        "_unsloth_grpo_sample_weight",
        "_unsloth_grpo_sample_weight_mode",
        "_unsloth_trl_masks_unscorable",
    ),
}
AGGREGATION = "UNSLOTH_GRPO_LOSS_AGGREGATION"
SETTINGS = [
    *PLAIN,
    Setting(f"loss_type=dapo, {AGGREGATION}=prompt", {"loss_type": "dapo", AGGREGATION: "prompt"}),
]


def functions() -> SimpleNamespace:
    """Return the released functions, compiled from the installed files without their modules."""
    names: dict[str, Any] = {"torch": torch, "math": math, "os": os}
    for path, wanted in ALONE.items():
        file = distribution(path.partition("/")[0]).locate_file(path)
        tree = ast.parse(file.read_text())
        tree.body = [
            node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted
        ]
        exec(compile(tree, str(file), "exec"), names)
    return SimpleNamespace(**names)


unsloth = functions()


class UnslothTrainer(Trainer):
    """Put Unsloth's loss where Unsloth puts it."""

    def _calculate_rewards(self, *args: Any, **named: Any) -> torch.Tensor:
        self.scored = super()._calculate_rewards(*args, **named)
        return self.scored

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        weight = unsloth._unsloth_grpo_sample_weight(
            self,
            "train",
            self.scored,
            output["completion_mask"],
            None,
            slice(first, first + len(inputs)),
        )
        return output if weight is None else output | {"unsloth_sample_weight": weight}

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        ids, mask = inputs["completion_ids"], inputs["completion_mask"]
        log_prob, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, ids.shape[1])
        loss, *_ = unsloth.grpo_compute_loss(
            None,
            log_prob,
            None,
            None,
            ids,
            mask,
            self.beta,
            inputs["advantages"],
            loss_type=self.args.loss_type,
            importance_sampling_level=self.importance_sampling_level,
            epsilon_low=self.epsilon_low,
            epsilon_high=self.epsilon_high,
            max_completion_length=self.args.max_completion_length,
            num_items_in_batch=inputs["num_items_in_batch"],
            current_gradient_accumulation_steps=unsloth._unsloth_grpo_accumulation_steps(self),
            num_processes=self.accelerator.num_processes,
            steps_per_generation=self.args.steps_per_generation,
            sample_weight=inputs.get("unsloth_sample_weight"),
            get_gamma_weights=self.get_gamma_weights,
            sapo_temperature_pos=self.args.sapo_temperature_pos,
            sapo_temperature_neg=self.args.sapo_temperature_neg,
        )
        return loss


def step(setting: Setting, batch: Batch, split: Split, rank: int, table: Table) -> bool:
    """Train one optimizer step, as TRL does it."""
    if split.packed:
        return False
    values = dict(setting.values)
    os.environ[AGGREGATION] = values.pop(AGGREGATION, "")
    train(UnslothTrainer, values, batch, split, rank, table)
    return True


if __name__ == "__main__":
    report(
        "benchmarks.conformance.peers.unsloth",
        framework="Unsloth",
        package="unsloth_zoo",
        how="function loaded alone, in GRPOTrainer.train() of TRL 1.15.0",
        functions=["unsloth_zoo/rl_replacements.py:grpo_compute_loss"],
    )
