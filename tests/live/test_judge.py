"""A judge of steps behind vLLM's own server. The small model stands in for the judge."""

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from recipe.run.processes import Watch, temporary_folder
from recipe.tasks import embedded
from reward.steps import Attempt, JudgeSettings, begin
from reward.steps.server import ServerJudge
from scripts.arithmetic import TASKS, TEMPLATE, draw_expressions, draw_solution
from tests.live.test_jobs import free_port

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]


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


def test_a_model_behind_a_server_is_asked_and_what_it_does_not_say_is_no_verdict(server):
    """The stand-in calculates on, so its replies seldom name a step: they count, none breaks."""
    judge = begin(JudgeSettings("server", server, None, 60.0, 1, 8, 96))
    assert isinstance(judge, ServerJudge)
    random, attempts = Random(0), []
    for expression in draw_expressions(0)["val"][:16]:
        problem = TEMPLATE.format(expression=expression)
        response = draw_solution(TASKS["length_gap"], expression, random)
        attempts.append(Attempt(problem, response, "9"))
    shares = judge(attempts)
    assert len(shares) == 16
    assert all(share is None or 0 <= share <= 1 for share in shares)
    # Every request was answered.
    assert judge.error is None
