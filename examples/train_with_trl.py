"""Train a small random model with TRL under Balanced Aggregation, on a CPU.

    pip install './balanced-aggregation[trl]'
    python examples/train_with_trl.py

Use your own model, data and reward in their places.
"""

import tempfile

from balanced_aggregation.integrations.trl import AggregatedGRPOTrainer
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

WORDS = ["<pad>", "<eos>", *"0123456789+="]


def reward(completions, **_):
    """Return 1 for a response with a 7 in it: any function of text will do."""
    return [float("7" in text) for text in completions]


def main():
    """Train for five steps and print what the rule saw."""
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(WORDS), eos_token_id=1, **sizes, **heads))
    with tempfile.TemporaryDirectory() as folder:
        trainer = AggregatedGRPOTrainer(
            model,
            reward,
            GRPOConfig(
                output_dir=folder,
                loss_type="dapo",
                beta=0.0,
                num_generations=8,
                per_device_train_batch_size=8,
                gradient_accumulation_steps=4,
                max_completion_length=32,
                max_steps=5,
                learning_rate=1e-3,
                logging_steps=1,
                use_cpu=True,
                bf16=False,
                report_to="none",
                save_strategy="no",
            ),
            train_dataset=Dataset.from_dict({"prompt": [f"{n} + {n} =" for n in range(10)]}),
            processing_class=tokenizer,
            aggregation="balanced",
        )
        trainer.train()
    for step in trainer.state.log_history[:-1]:
        gap = step.get("aggregation/length_gap", float("nan"))
        share = step["aggregation/objective_share_positive"]
        print(f"reward {step['reward']:.2f}, length gap {gap:+.2f}, positive share {share:.0%}")


if __name__ == "__main__":
    main()
