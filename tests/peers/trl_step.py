"""Train one optimizer step with TRL, and save the batch and the gradient.

    trl_step.py OUT RULE PROCESSES ACCUMULATION SETTINGS

SETTINGS are further arguments of GRPOConfig, as JSON.

Started by `test_trl.py` with one process, or with several by torchrun.
"""

import json
import sys
from pathlib import Path

import torch
from balanced_aggregation.integrations.trl import AggregatedGRPOTrainer
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig

WORDS = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]


def tokenizer():
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def model():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def reward(completions, **_):
    return [float("a" in text or "q" in text) + 0.3 * ("z" in text) for text in completions]


class Recorder(TrainerCallback):
    """Save the gradient that the optimizer sees."""

    def __init__(self, folder):
        self.folder = folder

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step == 0 and args.process_index == 0:
            found = {name: p.grad for name, p in model.named_parameters()}
            torch.save(found, self.folder / "gradient.pt")


class Recording(AggregatedGRPOTrainer):
    """Save the batch of each process as TRL made it, before the weights."""

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        rank, advantages = self.accelerator.process_index, list(self._logs["advantages"])
        own = slice(rank * len(inputs), (rank + 1) * len(inputs))
        found = {key: batch[key] for key in keys} | {"advantages": torch.tensor(advantages[own])}
        torch.save(found, Path(self.args.output_dir) / f"batch{rank}.pt")
        return batch


def main(out, rule, processes, accumulation, more):
    folder = Path(out)
    letters = "abcdefgh"
    prompts = [" ".join(letters[: n + 1]) for n in range(4)]
    args = GRPOConfig(
        output_dir=out,
        use_cpu=True,
        per_device_train_batch_size=16 // processes // accumulation,
        gradient_accumulation_steps=accumulation,
        num_generations=4,
        max_completion_length=24,
        max_steps=1,
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        beta=0.0,
        seed=3,
        bf16=False,
        gradient_checkpointing=False,
        **more,
    )
    trainer = Recording(
        model=model(),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer(),
        callbacks=[Recorder(folder)],
        aggregation=rule,
        settings={"limit": 24.0} if rule == "constant" else None,
    )
    trainer.train()
    if args.process_index == 0:
        torch.save(trainer.state.log_history, folder / "log.pt")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
