"""A run that is killed goes on as if nothing had happened, and nothing of the killed one stays."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.small_run import compare_runs
from tests.live.small_run import STEPS, finish, start
from tests.live.test_demo import left_behind, traces

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]


def records(outputs: Path) -> dict[int, dict[str, float]]:
    [metrics] = outputs.glob("cpu_demo/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(STEPS + 1))
    return {line["step"]: line["data"] for line in lines}


def kill_when(run: subprocess.Popen, outputs: Path, pattern: str, lines: int = 0) -> None:
    """SIGKILL the driver once it made a path; of a file with that many lines, a moment later."""
    started = time.time()
    for _ in range(6000):
        if any(
            path.stat().st_mtime > started
            and (not lines or len(path.read_text().splitlines()) >= lines)
            for path in outputs.glob(f"cpu_demo/*/{pattern}")
        ):
            break
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.05)
    if lines:
        time.sleep(random.uniform(0, 5))
    run.send_signal(signal.SIGKILL)
    run.wait()


def test_it_goes_on_from_the_last_whole_checkpoint_as_if_nothing_had_happened(whole, tmp_path):
    before = traces()
    # The validation and three steps.
    kill_when(start(tmp_path), tmp_path, "metrics.jsonl", lines=4)
    kill_when(start(tmp_path), tmp_path, f"checkpoints/global_step_{STEPS}/actor")
    said = finish(tmp_path)
    assert "goes on after step 3, from its last complete checkpoint" in said
    assert left_behind(before) == {}

    found, expected = records(tmp_path), records(whole)
    for step, data in expected.items():
        assert found[step].keys() == data.keys()
    # What the driver remembers was not begun anew either.
    for key in ("aggregation/lambda_scalar", "advantage/anchor"):
        assert expected[4][key] != expected[3][key] != 0

    [folder], [reference] = (x.glob("cpu_demo/lambda+ha_dw-*") for x in (tmp_path, whole))
    assert compare_runs(folder, reference) == {
        "missing": [],
        "doubled": [],
        "metrics": pytest.approx(0, abs=1e-5),
        "weights": pytest.approx(0, abs=1e-5),
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert [start["after_step"] for start in summary["starts"]] == [0, 3, 3]
    # Three starts, one run at W&B.
    ids = {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}
    assert ids == {(folder / "run_id").read_text()}


# In float32: some virtual machines announce AMX, which bfloat16 uses there, and forbid it.
LOAD = """
import sys
if __name__ == "__main__":
    from vllm import LLM, SamplingParams
    model = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64)
    [answer] = model.generate(["1"], SamplingParams(max_tokens=8, temperature=0, ignore_eos=True))
    print("SAMPLED", len(answer.outputs[0].token_ids))
"""


def test_its_checkpoint_becomes_a_folder_that_transformers_and_vllm_load(whole, tmp_path):
    [run] = whole.glob("cpu_demo/lambda+ha_dw-*")
    command = [sys.executable, "-m", "scripts.export", str(run), "--out", str(tmp_path / "model")]
    subprocess.run(command, cwd=ROOT, check=True)
    saved = torch.load(
        run / f"checkpoints/global_step_{STEPS}/actor/model_world_size_1_rank_0.pt",
        weights_only=False,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, weight in model.state_dict().items():
        shard = getattr(saved[name], "_local_tensor", saved[name])
        assert torch.equal(weight, shard.bfloat16()), name
    assert AutoTokenizer.from_pretrained(tmp_path / "model").decode(0) is not None

    script = tmp_path / "load.py"
    script.write_text(LOAD)
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    loaded = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model")],
        env=os.environ | on_cpu,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "SAMPLED 8" in loaded.stdout, loaded.stdout + loaded.stderr


def test_a_finished_run_is_not_trained_again(whole):
    [summary] = whole.glob("cpu_demo/*/summary.json")
    before = summary.stat().st_mtime_ns
    assert "this run is finished" in finish(whole)
    assert summary.stat().st_mtime_ns == before
