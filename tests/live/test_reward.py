"""Rewards in a training run: comparisons that hang, a punishment for length, a broken grader."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from benchmarks.reward_throughput import HANGS
from reward.math.equality import same
from reward.math.extract import extract
from reward.sources import DAPO

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]
PROMPTS, RESPONSES, LIMIT, BUFFER = 20, 8, 96, 48


def train(outputs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, "-m", "recipe.main", "+experiment=cpu_demo", f"output_root={outputs}"),
        *("trainer.val_before_train=false", "trainer.test_freq=-1", *overrides),
    ]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=1500)


# A user's scorer whose service is gone.
BROKEN = """
def score(response, ground_truth, extra_info):
    raise ConnectionError("the judge does not answer")
"""


@pytest.fixture(scope="module")
def hanging(composed, tmp_path_factory):
    """Two steps in which every twentieth prompt has a ground truth that hangs the comparison."""
    config = composed()
    rows = pd.read_parquet(config.data.train_files)[: 2 * PROMPTS]
    for number in range(0, len(rows), PROMPTS):
        rows.at[number, "reward_model"] = {"ground_truth": HANGS, "style": "rule"}
    outputs = tmp_path_factory.mktemp("outputs")
    rows.to_parquet(outputs / "train.parquet")
    done = train(
        outputs,
        f"data.train_files={outputs}/train.parquet",
        "data.shuffle=false",
        f"data.train_batch_size={PROMPTS}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        f"trainer.rollout_data_dir={outputs}/rollouts",
        "trainer.total_training_steps=2",
        "rewards=dapo",
        f"reward.reward_kwargs.overlong_buffer_cfg.len={BUFFER}",
        "reward.custom_reward_function.reward_kwargs.deadline=1.0",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs, done.stdout


def dump(outputs: Path, step: int) -> list[dict]:
    return [
        json.loads(line) for line in (outputs / f"rollouts/{step}.jsonl").read_text().splitlines()
    ]


def test_responses_whose_comparison_hangs_are_timeouts_and_the_run_goes_on(hanging):
    """The counters are those that the dumped responses have by definition."""
    outputs, said = hanging
    [metrics] = outputs.glob("cpu_demo/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        rows = dump(outputs, record["step"])
        assert len(rows) == PROMPTS * RESPONSES
        assert sum(row["gts"] == HANGS for row in rows) == len(rows) // 20
        found = dict.fromkeys(("correct", "incorrect", "no_answer", "timeout"), 0)
        for row in rows:
            answer = extract(row["output"], DAPO.forms)
            decided = None if answer is None else same(answer, row["gts"])
            if answer is None:
                found["no_answer"] += 1
            elif decided is None:
                found["timeout" if row["gts"] == HANGS else "incorrect"] += 1
            else:
                found["correct" if decided else "incorrect"] += 1
        assert found["timeout"] > 0
        data = record["data"]
        unread = data["reward/parse_error"] * len(rows)
        assert data["reward/timeout"] * len(rows) == pytest.approx(found["timeout"])
        assert data["reward/no_answer"] * len(rows) == pytest.approx(found["no_answer"])
        assert data["reward/correct"] * len(rows) == pytest.approx(found["correct"])
        assert data["reward/incorrect"] * len(rows) + unread == pytest.approx(found["incorrect"])
        assert data["reward/seconds"] > found["timeout"] / len(rows)
        assert data["actor/grad_norm"] > 0
    assert "timed out" in said
    [report] = outputs.glob("cpu_demo/*/report.md")
    assert "answers over their limit of time or memory" in report.read_text()


def test_the_score_falls_by_the_published_punishment_near_the_limit(hanging):
    """DAPO's equation 13, from the tokens of the dumped responses."""
    outputs, _ = hanging
    [config] = outputs.glob("cpu_demo/*/config.yaml")
    tokenizer = AutoTokenizer.from_pretrained(OmegaConf.load(config).actor_rollout_ref.model.path)
    punished = 0
    for row in dump(outputs, 1):
        tokens = len(tokenizer(row["output"], add_special_tokens=False).input_ids)
        length = min(tokens + 1, LIMIT)  # with the token that ends it, unless it was cut
        verdict = row["score"] - min(-(length - (LIMIT - BUFFER)) / BUFFER, 0)
        assert min(abs(verdict - 1), abs(verdict + 1)) < 1e-4
        punished += length > LIMIT - BUFFER
    assert punished > 0


@pytest.mark.exhaustive
def test_a_grader_that_breaks_stops_the_run_with_what_it_said(tmp_path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = train(
        tmp_path,
        "+reward.custom_reward_function.reward_kwargs.sources.math_dapo=my_scorer:score",
        "trainer.total_training_steps=2",
    )
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "64 of 64 responses have no reward" in said
    assert "ConnectionError: the judge does not answer" in said
    [metrics] = [*tmp_path.glob("cpu_demo/*/metrics.jsonl")] or [None]
    assert metrics is None or not metrics.read_text()
