"""Make the TRL samples of tests/recipe/analysis/data: TRL trains two steps and logs completions.

    scripts/install_peer.sh trl
    PYTHONPATH=. .venv-peers/trl/bin/python tests/peers/make_trl_dump.py FOLDER

With the package wandb on the path, FOLDER also gets the table that TRL gives to W&B. The model is
a GPT-2 with random weights, so texts are noise; the columns and types are those of TRL.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel
from trl import GRPOConfig, GRPOTrainer

from scripts.tiny_tokenizer import build_tokenizer


def even(completions: list[str], **_) -> list[float]:
    """Reward an even number of characters."""
    return [float(len(text) % 2 == 0) for text in completions]


def digit(completions: list[str], **_) -> list[float]:
    """Reward a digit."""
    return [float(any(map(str.isdigit, text))) for text in completions]


def main(folder: Path) -> None:
    """Train in a temporary folder and copy what TRL logged."""
    has_wandb = importlib.util.find_spec("wandb") is not None
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    size = {"vocab_size": len(tokenizer), "n_positions": 128, "n_embd": 16, "n_layer": 1}
    config = GPT2Config(**size, n_head=2, bos_token_id=end, eos_token_id=end)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": temporary}
        settings = GRPOConfig(
            output_dir=temporary,
            use_cpu=True,
            max_steps=2,
            logging_steps=1,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=48,
            log_completions=True,
            report_to=["wandb"] if has_wandb else [],
            save_strategy="no",
            seed=0,
        )
        prompts = Dataset.from_dict({"prompt": [f"{a} + {a + 1} = " for a in range(8)]})
        model = GPT2LMHeadModel(config)
        GRPOTrainer(model, [even, digit], settings, prompts, processing_class=tokenizer).train()
        folder.mkdir(parents=True, exist_ok=True)
        logged = Path(temporary).glob("completions/*.parquet")
        for path in [*logged, *Path(temporary).rglob("*.table.json")]:
            shutil.copy(path, folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
