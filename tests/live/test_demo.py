"""The whole loop as a person runs it: the README's command with fewer steps, then interrupted."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]


def readme_command(rule: str, seed: int) -> list[str]:
    """The training command that the README shows, with R and S filled in."""
    found = re.search(r"^python -m recipe\.main (.*)$", (ROOT / "README.md").read_text(), re.M)
    arguments = found[1].replace("=R", f"={rule}").replace("=S", f"={seed}")
    return [sys.executable, "-m", "recipe.main", *shlex.split(arguments)]


def names(folder: str, of_the_stack: str) -> set[str]:
    """Entries of a folder that Ray, vLLM, torch or this project would make."""
    return {name for name in os.listdir(folder) if re.match(of_the_stack, name)}


def traces() -> dict[str, set[str]]:
    """What a run could leave outside its output folder and the user's cache."""
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    return {
        "shared memory": names("/dev/shm", r"psm_|sem\.|torch_|verl_|plasma"),
        "temporary files": names("/tmp", r"ba-|ray|rl-colocate|vllm|torchinductor|[0-9a-f-]{36}$"),
        "clone": set(
            subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
        ),
        "home": set(os.listdir(Path.home())),
    }


def left_behind(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What was not there before and stays: what other tests use for a moment goes."""
    left = {where: found - before[where] for where, found in traces().items()}
    for _ in range(30):
        if not any(left.values()):
            break
        time.sleep(1)
        left = {where: left[where] & found for where, found in traces().items()}
    return {where: names for where, names in left.items() if names}


def processes_of(outputs: Path) -> list[int]:
    """Processes that were started for a run below `outputs`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("WANDB_DIR", "").startswith(str(outputs)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def start(outputs: Path, rule: str, *overrides: str) -> subprocess.Popen:
    # A quarter of the held-out prompts: validation takes longer than the steps.
    command = [*readme_command(rule, 0), f"output_root={outputs}", "data.val_max_samples=64"]
    command += overrides
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        start_new_session=True,
        # A suite run in the background inherits an ignored Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment | {"WANDB_MODE": "offline"},
    )


def records(outputs: Path) -> list[dict]:
    [metrics] = outputs.glob("cpu_demo/*/metrics.jsonl")
    return [json.loads(line)["data"] for line in metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three steps of balanced aggregation, with W&B offline."""
    outputs = tmp_path_factory.mktemp("outputs")
    before = traces()
    run = start(
        outputs,
        "balanced",
        "trainer.total_training_steps=3",
        "trainer.test_freq=3",
        "trainer.logger=[console,file,wandb]",
    )
    said = run.communicate(timeout=1200)[0]
    assert run.returncode == 0, said
    return outputs, said, before


def test_a_person_sees_a_line_a_step_and_where_the_report_is(finished):
    outputs, said, _ = finished
    lines = said.splitlines()
    steps = [line for line in lines if re.match(r"step [0-3]/3 ", line)]
    assert len(steps) == 4
    for line in steps[1:]:
        # What is not always there, as responses without an answer, stands before the seconds.
        pattern = (
            r"reward [+-]\d\.\d\d,  ?\d+% correct  length correct/incorrect \d+/\d+  .*\d+\.\d s"
        )
        assert re.search(pattern, line)
    # Making the model may come first, with a line every few seconds; verl's own output is logged.
    assert len(lines) - lines.index("cpu_demo: balanced, seed 0") < 20
    for name in (
        "report.md",
        "reward.png",
        "length.png",
        "share.png",
        "gradient.png",
        "summary.json",
    ):
        [path] = outputs.glob(f"cpu_demo/balanced-s0-*/{name}")
        assert f"wrote {path}" in lines
        assert path.stat().st_size > 100
    [log] = outputs.glob("cpu_demo/*/run.log")
    assert "Training Progress" in log.read_text()


def test_the_summary_has_what_tables_need(finished):
    [path] = finished[0].glob("cpu_demo/*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["experiment"] == "cpu_demo"
    assert (summary["rule"], summary["seed"], summary["steps"]) == ("balanced", 0, 3)
    assert 0 < summary["startup_seconds"] < summary["seconds"]
    assert 0.05 < summary["val_start"] < 0.6
    assert 1 < summary["peak_memory_gib"] < 14
    assert summary["commit"]
    assert summary["versions"]["verl"] == "0.9.1"


def test_wandb_works_offline_inside_the_run_folder(finished):
    assert list(finished[0].glob("cpu_demo/*/wandb/offline-run-*"))


def test_trainer_and_rollout_agree_on_token_probabilities(finished):
    for data in records(finished[0])[1:]:
        assert data["training/rollout_probs_diff_max"] < 5e-4


def test_the_first_update_of_each_batch_is_on_policy(finished):
    for data in records(finished[0])[1:]:
        assert abs(data["actor/ppo_kl"]) < 1e-5
        assert data["actor/pg_clipfrac"] == 0


def test_the_weights_reach_the_actor(finished):
    """Under balanced the loss at ratio 1 is 0 and the sides share the objective equally."""
    for data in records(finished[0])[1:]:
        assert abs(data["actor/pg_loss"]) < 1e-5
        assert data["aggregation/objective_share_positive"] == pytest.approx(0.5, abs=1e-6)
        assert data["actor/grad_norm"] > 0
        assert data["actor/update_norm"] > 0


def test_a_finished_run_leaves_nothing_behind(finished):
    outputs, _, before = finished
    assert processes_of(outputs) == []
    assert left_behind(before) == {}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, finished):
    """The rule `token` with the same seed on two ranks, stopped by Ctrl-C after its first step."""
    outputs = tmp_path_factory.mktemp("outputs")
    before = traces()
    run = start(outputs, "token", "trainer.n_gpus_per_node=2")
    said = ""
    for line in run.stdout:
        said += line
        if line.startswith("step  1/"):
            time.sleep(1)
            os.killpg(run.pid, signal.SIGINT)
            break
    said += run.communicate(timeout=180)[0]
    return outputs, said, before, run.returncode


def test_ctrl_c_stops_with_one_line_and_leaves_nothing_behind(interrupted):
    outputs, said, before, code = interrupted
    assert code == 130, said
    assert said.splitlines()[-1] == "stopped; nothing was left running"
    assert "Traceback" not in said
    assert processes_of(outputs) == []
    assert left_behind(before) == {}


def test_the_first_responses_depend_on_the_seed_alone(finished, interrupted):
    """Not on the rule, nor on the number of ranks and servers."""
    one, two = records(finished[0])[1], records(interrupted[0])[1]
    for key in (
        "critic/score/mean",
        "response_length/mean",
        "prompt_length/mean",
        "reward/length_correct",
    ):
        assert one[key] == two[key], key
    for rule in ("sequence", "token", "balanced"):
        key = f"aggregation/objective_share_negative/{rule}"
        assert one[key] == pytest.approx(two[key], abs=1e-6)


def test_token_aggregation_shows_the_length_gap_in_its_loss(finished, interrupted):
    """At ratio 1 its loss is minus the coupling of sign and length; under balanced it is 0."""
    data = records(interrupted[0])[1]
    coupling = (
        data["aggregation/objective_share_positive/token"]
        - data["aggregation/objective_share_negative/token"]
    )
    assert data["actor/pg_loss"] * coupling < 0


def test_an_error_in_training_ends_in_one_paragraph_with_the_log(tmp_path):
    run = start(tmp_path, "sequence", "actor_rollout_ref.rollout.max_model_len=8")
    said = run.communicate(timeout=600)[0]
    assert run.returncode == 1
    assert said.splitlines()[-1].startswith("error: training failed: ")
    assert f"{tmp_path}/cpu_demo/sequence-s0-" in said.splitlines()[-1]
    assert processes_of(tmp_path) == []
