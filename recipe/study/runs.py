"""Run what a study lacks, in worker processes, and add each result as soon as it is there."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from recipe.base.errors import UserError
from recipe.base.files import read_lines, write_lines
from recipe.base.processes import end_with_parent
from recipe.config.compose import composed, resolve
from recipe.study.plan import Result, Run, Study, area, run_of
from recipe.training.alone import prepare_verl

if TYPE_CHECKING:
    from recipe.study.laboratory import Laboratory

# Digits of a curve's values in the results.
DIGITS = 4
# The last laboratory of this worker, by its model.
LOADED: dict[str, "Laboratory"] = {}


class Results:
    """Hold the results of a study, one JSON line for each finished run."""

    def __init__(self, path: Path) -> None:
        """Read what is there; the torn last line of a killed study is left out."""
        self.path = path
        self.rows: list[Result] = read_lines(path) if path.exists() else []
        if path.exists():
            write_lines(path, self.rows)

    def add(self, row: Result) -> None:
        """Add a result, on disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)

    def missing(self, study: Study, runs: Iterable[Run]) -> list[Run]:
        """Return the runs without a result.

        Raises:
            UserError: a result is of another config.
        """
        found = {run_of(row): row["overrides"] for row in self.rows}
        missing = []
        for run in runs:
            if run not in found:
                missing.append(run)
            elif found[run] != study.config_overrides(run):
                raise UserError(
                    f"{self.path} has a result of {run} with other overrides: "
                    f"{' '.join(found[run])}. Give the study another folder of results."
                )
        return missing


def work_off(
    study: Study,
    runs: Sequence[Run],
    results: Results,
    made_by: dict[str, Any],
    jobs: int,
    say: Callable[[str], None],
) -> None:
    """Run all of these, `jobs` at a time.

    Args:
        study: the study.
        runs: runs of one cell without a result.
        results: gets each result.
        made_by: commit, command and versions, and the cell's prediction, for the results.
        jobs: worker processes.
        say: shows progress.
    """
    started, waiting, running = time.monotonic(), list(runs), set()
    workers = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),)
    )
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running.add(workers.submit(carry_out, study, run))
            done: set[Future[Result]]
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                row = future.result() | made_by
                results.add(row)
                num = len(runs) - len(waiting) - len(running)
                left = (time.monotonic() - started) / num * (len(waiting) + len(running))
                say(
                    f"{row['cell']}  {num} of {len(runs)}  {row['arm']}, rate "
                    f"{row['learning_rate']:g}, seed {row['seed']}: area {area(row):.3f}  "
                    f"{row['seconds']:.0f} s  {left / 60:.0f} min left"
                )
    finally:
        for process in list((workers._processes or {}).values()):
            process.terminate()
        workers.shutdown(cancel_futures=True)


def carry_out(study: Study, run: Run) -> Result:
    """Train one run in a worker, and return its result."""
    started = time.monotonic()
    overrides = study.config_overrides(run)
    config = composed(overrides)
    resolve(config)
    laboratory = laboratory_of(config)
    is_selection = run.seed in study.selection_seeds
    steps, looks = [], []
    for step in laboratory.train(config):
        steps.append(step)
        # A learning rate is chosen by the training accuracy.
        if not is_selection and len(steps) % study.held_out_every == 0:
            # The same draws for all runs of a seed.
            right = laboratory.accuracy(study.held_out_samples, seed=run.seed)
            looks.append("".join(map(str, right)))
    curves = {
        name: [None if value is None else round(value, DIGITS) for value in values]
        for name, values in zip(type(steps[0])._fields, zip(*steps, strict=True), strict=True)
    }
    return {
        **run._asdict(),
        "is_selection": is_selection,
        **curves,
        "held_out": looks,
        "held_out_samples": study.held_out_samples,
        "overrides": overrides,
        "seconds": round(time.monotonic() - started, 1),
    }


def laboratory_of(config: DictConfig) -> "Laboratory":
    """Return the laboratory of a config's model; a worker loads it once for runs in a row."""
    # One thread each: on small models several wait for each other longer than they compute.
    torch.set_num_threads(1)
    disable_progress_bar()
    prepare_verl(config)
    from recipe.study.laboratory import Laboratory

    model = str(config.actor_rollout_ref.model.path)
    if model not in LOADED:
        LOADED.clear()
        LOADED[model] = Laboratory(config)
    return LOADED[model]
