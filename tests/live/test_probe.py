"""The estimator with responses of vLLM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe.base.files import read_lines
from recipe.config.compose import composed, resolve
from recipe.estimator.model import Model
from recipe.estimator.responses import read_groups
from recipe.sampling.in_process import Sampler

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]


def test_the_estimator_samples_with_vllm_what_transformers_would(tmp_path):
    """Groups are complete, each response has its own draw, and the model finds them as likely."""
    words = ["--prompts", "48", "--group", "8", "--batch-groups", "4", "--fresh", "8"]
    words += ["--step-batches", "0", "--sampler", "vllm", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "recipe.probe", "estimator", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["options"]["sampler"] == "vllm"
    lines = read_lines(tmp_path / "responses.jsonl")
    assert sorted(line["row"] for line in lines) == list(range(56))
    assert all(len({tuple(one) for one in line["responses"]}) > 1 for line in lines)

    torch.set_num_threads(1)
    config = composed(["+experiment=cpu_demo"])
    resolve(config)
    sampler = Sampler(config)
    groups = read_groups(tmp_path / "responses.jsonl")
    per_token_N = Model(sampler.model).log_probs(groups) / groups.length_N
    # Under the model's own distribution the mean of -log pi is its entropy, with this error.
    torch.manual_seed(0)
    rows = [{"prompt": p} for p in groups.prompt_N[::8]]
    sampler.scorer.encode = lambda row: row["prompt"].tolist()
    sampler.scorer.score = lambda row, token: 0.0
    found = sampler.sample(rows, 8)
    other = groups._replace(
        prompt_N=[one.prompt for one in found], token_N=[one.token for one in found]
    )
    other_N = Model(sampler.model).log_probs(other) / other.length_N
    error = ((per_token_N.var() + other_N.var()) / len(other_N)) ** 0.5
    assert abs(per_token_N.mean() - other_N.mean()) < 4 * error
