"""Make the samples of SkyRL, prime-rl and slime in tests/recipe/analysis/data with their writers.

    PYTHONPATH=.:SOURCE python tests/peers/make_dumps.py skyrl FOLDER       # skyrl 0.4.0
    PYTHONPATH=.:SOURCE:CONFIGS python tests/peers/make_dumps.py prime_rl FOLDER
    PYTHONPATH=.:SOURCE python tests/peers/make_dumps.py slime FOLDER

SOURCE is the unpacked wheel or a checkout: prime-rl 559b4477 (its `src`, its
`packages/prime-rl-configs/src`, and verifiers 0.4.0), slime 624b824a. The responses are made up;
each file is written by the framework's own function, named below.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from scripts.tiny_tokenizer import build_tokenizer

STEPS, PROMPTS, SAMPLES = 2, 2, 4


def rollouts(step: int) -> list[dict[str, Any]]:
    """Return the responses of a step: the first half of a group is right, the others longer."""
    tokenizer = build_tokenizer()
    rows = []
    for number in range(PROMPTS * SAMPLES):
        prompt, sample = f"{step} + {number // SAMPLES} = ", number % SAMPLES
        correct = sample < SAMPLES // 2
        text = f"Answer: {10 ** (sample + (0 if correct else 4))}"
        rows.append(
            {
                "uid": f"{step}-{number // SAMPLES}",
                "prompt": prompt,
                "text": text,
                "prompt_ids": tokenizer.encode(prompt),
                "ids": [*tokenizer.encode(text), tokenizer.eos_token_id],
                "reward": float(correct),
            }
        )
    return rows


def skyrl(folder: Path) -> None:
    """Write with `TrainingInputBatch.save` and `dump_per_dataset_eval_results`."""
    import typing

    import typing_extensions

    # SkyRL needs Python 3.12, where pydantic takes this type too.
    typing.TypedDict = typing_extensions.TypedDict
    import torch
    from skyrl.backends.skyrl_train.training_batch import (
        TrainingInputBatch,
        pad_training_input_batch,
    )
    from skyrl.backends.skyrl_train.utils.ppo_utils import compute_grpo_outcome_advantage
    from skyrl.train.dataset.preprocess import (
        compute_prompt_boundaries,
        convert_prompts_responses_to_batch_tensors,
    )
    from skyrl.train.utils.trainer_utils import dump_per_dataset_eval_results

    tokenizer = build_tokenizer()
    for step in range(1, STEPS + 1):
        rows = rollouts(step)
        prompts, ids = [row["prompt_ids"] for row in rows], [row["ids"] for row in rows]
        # As in tool use, the first token of the last response is not trained.
        masks = [[1] * len(row["ids"]) for row in rows]
        masks[-1][0] = 0
        rewards = [[0.0] * (len(row["ids"]) - 1) + [row["reward"]] for row in rows]
        sequences, attention, response, reward, loss, *_ = (
            convert_prompts_responses_to_batch_tensors(
                tokenizer.pad_token_id, prompts, ids, rewards, masks
            )
        )
        uids = [row["uid"] for row in rows]
        advantages, returns = compute_grpo_outcome_advantage(reward, response, uids)
        batch = TrainingInputBatch(
            {
                "sequences": sequences,
                "attention_mask": attention,
                "response_mask": response,
                "loss_mask": loss,
                "advantages": advantages.to(torch.float32),
                "returns": returns,
                "rollout_logprobs": None,
            }
        )
        batch.metadata = {
            "policy_prompt_boundaries": compute_prompt_boundaries(uids),
            "response_length": response.shape[1],
        }
        batch = pad_training_input_batch(batch, 1)
        (folder / "dumped_data").mkdir(parents=True, exist_ok=True)
        batch.save(folder / f"dumped_data/global_step_{step}_training_input.pkl")
        evals = folder / f"dumped_evals/global_step_{step}_evals"
        evals.mkdir(parents=True, exist_ok=True)
        output = {
            "prompt_token_ids": prompts,
            "response_ids": ids,
            "rewards": rewards,
            "stop_reasons": ["stop"] * len(rows),
        }
        names = ["sums"] * len(rows)
        dump_per_dataset_eval_results(
            evals, tokenizer, output, names, names, [{}] * len(rows), {"eval/all/avg_score": 0.5}
        )


def prime_rl(folder: Path) -> None:
    """Write with `FileMonitor.log_episodes`, advantages by `GRPOAlgorithm.score_group`."""
    # Monitors that log elsewhere, with packages that this does not need.
    for name in ("wandb", "prime"):
        sys.modules[f"prime_rl.monitors.{name}"] = MagicMock()
    import verifiers.v1 as vf
    from prime_rl.configs.monitors import FileMonitorConfig
    from prime_rl.monitors.file import FileMonitor
    from prime_rl.orchestrator.algo.grpo import GRPOAlgorithm
    from verifiers.v1 import episode as episodes
    from verifiers.v1 import trace as traces
    from verifiers.v1.graph import MessageNode

    def episode(row: dict[str, Any], step: int) -> vf.Episode:
        task = {"type": "sums", "data": {"prompt": row["prompt"]}}
        user = MessageNode(
            message={"role": "user", "content": row["prompt"]},
            token_ids=row["prompt_ids"],
            mask=[False] * len(row["prompt_ids"]),
        )
        reply = MessageNode(
            parent=0,
            message={"role": "assistant", "content": row["text"]},
            sampled=True,
            token_ids=row["ids"],
            mask=[True] * len(row["ids"]),
            logprobs=[-1.0] * len(row["ids"]),
        )
        trace = traces.WireTrace(
            task=task, agent={"config": {}}, nodes=[user, reply], ok=True, is_completed=True
        )
        trace.record_reward("correct", row["reward"])
        work = {"type": "train", "step": step}
        return episodes.WireEpisode(
            task=task,
            group={"id": row["uid"]},
            run={"type": "train", "id": "run", "work": work},
            ok=True,
            traces=[trace],
        )

    async def write() -> None:
        algorithm = GRPOAlgorithm.__new__(GRPOAlgorithm)
        algorithm.length_penalty = None
        monitor = FileMonitor(FileMonitorConfig())
        await monitor.init(folder)
        for step in range(1, STEPS + 1):
            batch = [episode(row, step) for row in rollouts(step)]
            for begin in range(0, len(batch), SAMPLES):
                await algorithm.score_group(batch[begin : begin + SAMPLES])
            await monitor.log_episodes(batch, step, "train", "effective")

    asyncio.run(write())


def slime(folder: Path) -> None:
    """Write with `save_debug_rollout_data`, as `--save-debug-rollout-data` does."""
    from slime.observability.rollout_data_utils import save_debug_rollout_data
    from slime.utils.types import Sample

    for step in range(STEPS):
        samples = [
            Sample(
                group_index=number // SAMPLES,
                index=number,
                prompt=row["prompt"],
                tokens=row["prompt_ids"] + row["ids"],
                response=row["text"],
                response_length=len(row["ids"]),
                reward=row["reward"],
                # As in tool use, the first token of the last response is not trained.
                loss_mask=[int(number != 7), *[1] * (len(row["ids"]) - 1)],
                status=Sample.Status.COMPLETED,
            )
            for number, row in enumerate(rollouts(step))
        ]
        save_debug_rollout_data(
            str(folder / "{rollout_id}.pt"), samples, rollout_id=step, evaluation=False
        )


if __name__ == "__main__":
    {"skyrl": skyrl, "prime_rl": prime_rl, "slime": slime}[sys.argv[1]](Path(sys.argv[2]))
