"""A trained run is evaluated; what was sampled survives a kill; validation says the same."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from eval.sampling.grading import grade
from eval.sampling.samples import Sample
from recipe.tasks.task import find, load
from reward.sources import RewardSettings
from tests.live.small_run import ROOT, STEPS
from tests.live.test_demo import left_behind, traces

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
TASK = find("arithmetic_length_gap")


@pytest.fixture(scope="module")
def run(whole):
    [folder] = whole.glob("cpu_demo/lambda+ha_dw-*")
    return folder


def test_validation_metrics_are_what_evaluation_makes_of_the_same_samples(run, whole, tmp_path):
    dumped = [json.loads(line) for line in (whole / f"validation/{STEPS}.jsonl").open()]
    asked = {row["input"].removeprefix("user\n").removesuffix("\nassistant\n") for row in dumped}
    problems = load(TASK, "data")
    # The run validates on some of the task's problems.
    rows = [row for row in problems.rows if row["prompt"][0]["content"] in asked]
    problems = problems._replace(rows=rows)
    places = {row["prompt"][0]["content"]: i for i, row in enumerate(rows)}
    seen: Counter[int] = Counter()
    samples = []
    for row in dumped:
        place = places[row["input"].removeprefix("user\n").removesuffix("\nassistant\n")]
        samples.append(Sample(place, seen[place], 0, row["output"], 1, False))
        seen[place] += 1
    samples.sort()
    settings = RewardSettings(workers=2)
    result = grade(samples, problems, settings, tmp_path / "graded.jsonl", io.StringIO())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").open()][-1]["data"]
    logged = {
        key.rpartition("/")[2]: value
        for key, value in metrics.items()
        if key.startswith(("val-core/math_dapo/acc", "val-aux/math_dapo/acc"))
    }
    assert logged.keys() == result["metrics"].keys()
    assert logged == pytest.approx(result["metrics"])
    assert logged[f"mean@{TASK.samples}"] > 0.1


def start(run: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "eval.run", str(run), "--tasks", TASK.name, *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_killed_evaluation_loses_no_sample_and_leaves_nothing(run):
    before = traces()
    first = start(run)
    results = run / "eval" / f"global_step_{STEPS}"
    path = results / f"{TASK.name}.samples.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < 100:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    # What a machine that goes down may leave of a last line.
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert kept.count(b"\n") < 256 * TASK.samples
    path.write_bytes(kept + b'{"problem": 255, "sam')

    second = start(run)
    said = second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    whole = path.read_bytes()
    assert whole.startswith(kept)
    rows = [json.loads(line) for line in whole.splitlines()]
    asked = [(problem, number) for problem in range(256) for number in range(TASK.samples)]
    assert sorted((row["problem"], row["sample"]) for row in rows) == asked
    num_kept = len(kept.splitlines())
    assert f"{len(asked) - num_kept} samples to go" in said

    result = json.loads((results / f"{TASK.name}.json").read_text())
    assert (result["run"]["rule"], result["run"]["step"]) == ("lambda+ha_dw", STEPS)
    assert result["run"]["length_gap"] is not None
    assert 0.1 < result["metrics"][f"mean@{TASK.samples}"] < 0.9
    assert result["sampling"]["max_tokens"] == 96
    assert left_behind(before) == {}
