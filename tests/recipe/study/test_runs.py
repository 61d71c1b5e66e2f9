import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from studies import GIVEN

from recipe.base.errors import UserError
from recipe.base.files import read_lines
from recipe.study.plan import Run, Study
from recipe.study.runs import Results

ROOT = Path(__file__).parents[3]
RUN = Run("one", "token", 1e-4, 0)


def row(study, run, **more):
    return {**run._asdict(), "overrides": study.config_overrides(run), "correct": [0.5], **more}


@pytest.fixture
def study():
    return Study(**GIVEN)


def test_results_are_kept_as_they_come_and_a_torn_line_is_left_out(study, tmp_path):
    results = Results(tmp_path / "results.jsonl")
    results.add(row(study, RUN))
    with results.path.open("a") as file:
        file.write('{"cell": "one"')
    again = Results(results.path)
    again.add(row(study, RUN._replace(seed=1)))
    assert [line["seed"] for line in read_lines(results.path)] == [0, 1]
    assert results.path.read_text().endswith("\n")


def test_only_runs_without_a_result_are_missing(study, tmp_path):
    results = Results(tmp_path / "results.jsonl")
    results.add(row(study, RUN))
    other = RUN._replace(seed=1)
    assert results.missing(study, [RUN, other]) == [other]


def test_a_result_of_another_config_is_refused(study, tmp_path):
    results = Results(tmp_path / "results.jsonl")
    results.add(row(study, RUN) | {"overrides": ["+experiment=smoke"]})
    with pytest.raises(UserError, match=r"with other overrides: .experiment=smoke"):
        results.missing(study, [RUN])


SMALL = GIVEN | {
    "overrides": [
        "+experiment=cpu_demo",
        "trainer.total_training_steps=2",
        "data.train_batch_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
    ],
    "cells": {"gap": [], "updates": ["actor_rollout_ref.actor.ppo_mini_batch_size=2"]},
    "learning_rates": [1e-4],
    "held_out_samples": 1,
    "seeds": 2,
}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_study_repeats_no_finished_run_and_seeds_are_paired(tmp_path):
    path, results = tmp_path / "study.yaml", tmp_path / "results.jsonl"
    path.write_text(yaml.safe_dump(SMALL | {"results": str(tmp_path)}))
    command = [sys.executable, "-m", "recipe.study", str(path), "--jobs", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as first:
        assert first.stdout
        said = next((line for line in first.stdout if "1 of 4" in line), "")
        workers = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGKILL)
    assert said, "no run has finished"
    assert len(workers) >= 2
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    kept = results.read_bytes()
    assert 1 <= kept.count(b"\n") < 8
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    assert results.read_bytes().startswith(kept)
    rows = read_lines(results)
    assert len({json.dumps([line["cell"], line["arm"], line["seed"]]) for line in rows}) == 8
    assert len(rows) == 8
    for cell in SMALL["cells"]:
        for seed in range(2):
            one, other = (line for line in rows if (line["cell"], line["seed"]) == (cell, seed))
            # The first batch is sampled before any update, from the same prompts and seed.
            assert one["correct"][0] == other["correct"][0]
            assert one["length"][0] == other["length"][0]
            # Of one update the entropy is measured before it.
            if cell == "gap":
                assert one["entropy"][0] == other["entropy"][0]
            assert one["gradient_norm"] != other["gradient_norm"]
    assert {len(line["held_out"]) for line in rows} == {1}
    third = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert "all runs of gap, updates have results" in third.stdout
    assert read_lines(results) == rows
    again = [*command, "--cells", "gap", "--out", str(tmp_path / "again")]
    subprocess.run(again, cwd=ROOT, capture_output=True, timeout=300, check=True)
    assert read_lines(results) == rows
    measured = ("arm", "seed", "correct", "length", "entropy", "gradient_norm")
    kept, repeated = (
        sorted([line[key] for key in measured] for line in found if line["cell"] == "gap")
        for found in (rows, read_lines(tmp_path / "again/results.jsonl"))
    )
    assert kept == repeated
