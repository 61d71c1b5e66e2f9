"""Jobs on a Ray cluster of two nodes, both on this machine: a sweep, a killed driver, two nodes."""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from recipe.run.processes import Watch, temporary_folder

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]
SHORT = (
    "data.val_max_samples=64",
    "trainer.total_training_steps=4",
    "trainer.test_freq=4",
    "trainer.save_freq=1",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
    """Environment in which the head's job server is found; the nodes end with the tests."""
    ray = str(Path(sys.executable).with_name("ray"))
    port, dashboard = free_port(), free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
    node = [ray, "start", "--block", "--num-cpus=32", "--num-gpus=1", "--disable-usage-stats"]
    with temporary_folder() as temporary, Watch(temporary):
        environment["TMPDIR"] = str(temporary)
        with (temporary / "log").open("w") as log:

            def start(*arguments: str) -> subprocess.Popen:
                return subprocess.Popen(
                    [*node, *arguments], env=environment, stdout=log, stderr=log
                )

            start(
                "--head",
                f"--port={port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard}",
                f"--temp-dir={temporary}/ray",
                "--node-ip-address=127.0.0.1",
            )
            address = f"http://127.0.0.1:{dashboard}"
            wait_for(lambda: answers(dashboard), 60)
            # In a folder of its own: a node unpacks a job's working directory anew, even where
            # another node already uses it.
            start(
                f"--address=127.0.0.1:{port}",
                f"--temp-dir={temporary}/ray2",
                "--node-ip-address=127.0.0.1",
            )
            yield environment | {"RAY_API_SERVER_ADDRESS": address}


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition, seconds: float):
    for _ in range(int(seconds * 10)):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to be")


def submit(environment: dict[str, str], outputs: Path, *arguments: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "scripts.submit",
        *arguments,
        "--output-root",
        str(outputs),
        "--python",
        sys.executable,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def driver_of(rule: str) -> psutil.Process | None:
    """The process that trains with this rule, below the cluster's job supervisor."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "recipe.main" in words and f"aggregation={rule}" in words:
            return process
    return None


def steps_of(outputs: Path, rule: str) -> int:
    found = [*outputs.glob(f"cpu_demo/{rule}-s0-*/metrics.jsonl")]
    return len(found[0].read_text().splitlines()) if found else 0


SWEEP = ("cpu_demo", "--rule", "balanced", "token", "--max-concurrent", "2", *SHORT)


@pytest.fixture(scope="module")
def sweep(cluster, tmp_path_factory):
    """Two runs at once, of which one loses its driver in the middle."""
    outputs = tmp_path_factory.mktemp("outputs")
    submitted = submit(cluster, outputs, *SWEEP)
    # The validation and two steps, of which one at least is saved as a whole.
    wait_for(lambda: steps_of(outputs, "token") >= 3 or submitted.poll() is not None, 1200)
    driver_of("token").send_signal(signal.SIGKILL)
    said = submitted.communicate(timeout=1500)[0]
    assert submitted.returncode == 0, said
    return outputs, said


def test_both_finish_and_the_killed_one_went_on_where_it_was(sweep):
    outputs, said = sweep
    assert len(re.findall(r"cpu_demo\.token-s0-\w+\.1  failed", said)) == 1
    assert len(re.findall(r"cpu_demo\.(token-s0-\w+\.2|balanced-s0-\w+\.1)  succeeded", said)) == 2
    starts, before = {}, {}
    for rule in ("balanced", "token"):
        [summary] = outputs.glob(f"cpu_demo/{rule}-s0-*/summary.json")
        found = json.loads(summary.read_text())
        assert found["steps"] == 4
        assert found["commit"]
        starts[rule] = [start["after_step"] for start in found["starts"]]
        lines = (summary.parent / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4]
        before[rule] = json.loads(lines[0])["data"]
    # Same seed, same model: what one run samples must not depend on its neighbour.
    starting = {rule: first["val-core/math_dapo/acc/mean@2"] for rule, first in before.items()}
    assert starting["balanced"] == starting["token"] > 0.1
    assert starts["balanced"] == [0]
    assert len(starts["token"]) == 2 and starts["token"][1] > 0
    # One table at the end, a row per rule.
    assert len(re.findall(r"^\| cpu_demo .*\| (balanced|token) ", said, re.M)) == 2


def test_the_same_sweep_again_submits_nothing(cluster, sweep):
    again = submit(cluster, sweep[0], *SWEEP)
    said = again.communicate(timeout=360)[0]
    assert again.returncode == 0, said
    assert said.count("finished before") == 2
    assert "submitted" not in said


def test_the_cluster_shows_and_prints_the_jobs(cluster, sweep):
    status = submit(cluster, sweep[0], "--status").communicate(timeout=180)[0]
    assert len(re.findall(r"cpu_demo\.\w+-s0-\w+\.\d +\| (succeeded|failed)", status)) == 3
    [job] = re.findall(r"cpu_demo\.balanced-s0-\w+\.1", status)
    assert "step 4/4" in submit(cluster, sweep[0], "--logs", job).communicate(timeout=180)[0]
    unknown = submit(cluster, sweep[0], "--stop", "nothing.1")
    assert "the cluster has no job nothing.1" in unknown.communicate(timeout=180)[0]
    assert unknown.returncode == 1


def test_a_name_that_stands_for_another_config_is_refused(cluster, sweep, tmp_path):
    other = submit(cluster, tmp_path, *SWEEP)
    said = other.communicate(timeout=360)[0]
    assert other.returncode == 1
    assert "another config" in said
    assert "experiment_name=NAME" in said


def test_a_job_that_is_stopped_is_not_tried_again(cluster, tmp_path):
    run = submit(cluster, tmp_path, "cpu_demo", "seed=7", *SHORT)
    wait_for(lambda: driver_of("balanced"), 180)
    status = submit(cluster, tmp_path, "--status").communicate(timeout=180)[0]
    [job] = re.findall(r"(cpu_demo\.\S+) +\| (?:running|pending)", status)
    stopping = submit(cluster, tmp_path, "--stop", job)
    assert f"{job}  asked to stop" in stopping.communicate(timeout=180)[0]
    said = run.communicate(timeout=360)[0]
    assert run.returncode == 1
    assert f"{job}  stopped" in said
    assert said.count("  submitted") == 1


def test_a_run_trains_over_two_nodes(cluster, tmp_path):
    run = submit(
        cluster,
        tmp_path,
        "cpu_demo",
        "trainer.nnodes=2",
        "trainer.total_training_steps=2",
        "trainer.test_freq=-1",
        "trainer.save_freq=2",
        "trainer.val_before_train=false",
        "--retries",
        "0",
    )
    said = run.communicate(timeout=1500)[0]
    assert run.returncode == 0, said
    [folder] = tmp_path.glob("cpu_demo/balanced-*")
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    # A shard of each node's rank.
    shards = [*folder.glob("checkpoints/global_step_2/actor/model_world_size_2_rank_*.pt")]
    assert len(shards) == 2
    exported = subprocess.run(
        [sys.executable, "-m", "scripts.export", str(folder)], cwd=ROOT, env=cluster
    )
    assert exported.returncode == 0
    whole = AutoModelForCausalLM.from_pretrained(folder / "exported/global_step_2").state_dict()
    parts = [torch.load(shard, weights_only=False) for shard in sorted(shards)]
    for name, weight in whole.items():
        joined = torch.cat([part[name]._local_tensor for part in parts]).bfloat16()
        assert torch.equal(weight, joined), name
