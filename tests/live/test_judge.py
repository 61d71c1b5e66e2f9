"""SGPO with a judge behind vLLM's own server. The small model stands in for the judge."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from recipe.run.processes import Watch, temporary_folder
from recipe.tasks import embedded
from tests.live.test_jobs import free_port

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]
PROMPTS, GROUP = 8, 2


@pytest.fixture
def server():
    """Its address. It ends with the test."""
    embedded.make("length_gap")
    port, model = free_port(), Path(embedded.folder("length_gap")) / "model"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--port", str(port), "--host", "127.0.0.1", "--served-model-name", "stand-in"]
    # In float32: some virtual machines announce AMX, which bfloat16 uses there, and forbid it.
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with temporary_folder() as folder, Watch(folder), (folder / "log").open("w") as log:
        environment = os.environ | on_cpu | {"TMPDIR": str(folder)}
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        for _ in range(300):
            try:
                with urlopen(f"http://127.0.0.1:{port}/health"):
                    break
            except (URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()[-4000:]
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        process.wait(timeout=60)


def test_a_run_is_graded_by_a_model_behind_a_server(server, tmp_path):
    """The stand-in replies, but hardly names a step: the run counts that, and goes on."""
    command = [sys.executable, "-m", "recipe.main", "+experiment=cpu_demo", "advantage=sgpo"]
    command += ["step_judge.kind=server", f"step_judge.url={server}", "step_judge.max_tokens=96"]
    command += ["trainer.total_training_steps=2", f"actor_rollout_ref.rollout.n={GROUP}"]
    command += ["trainer.val_before_train=false", "trainer.test_freq=-1"]
    run = subprocess.run(
        [*command, f"output_root={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert run.returncode == 0, run.stdout + run.stderr
    [metrics] = tmp_path.glob("cpu_demo/*sgpo*/metrics.jsonl")
    steps = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    judged = [step for step in steps if step.get("judge/responses")]
    assert judged
    for step in judged:
        assert step["timing_s/judge"] > 0
        # Of a group that is graded, every response has a verdict.
        graded = step["advantage/graded"] * PROMPTS * GROUP
        answered = step["judge/responses"] * (1 - step["judge/failures"])
        assert 0 <= graded <= answered + 1e-6
