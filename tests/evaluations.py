"""Make evaluation results for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.published import published
from eval.tables import layout
from eval.tables.grid import TableRow, arrange
from eval.tables.measurements import measurements
from eval.tables.printed import Table
from eval.tables.results import read_results

SAMPLES = 4
COMMIT = "0123456789ab"


def content(
    correct: list[int] | None = None,
    task: str = "math500",
    rule: str | None = "balanced",
    seed: int = 0,
    step: int = 400,
    experiment: str = "qwen3_1_7b_polaris",
    **changed: Any,
) -> dict[str, Any]:
    """Return the content of a result file; `rule=None` stands for a model of another origin.

    Args:
        correct: number of correct samples of each problem.
        task: with `rule`, `seed`, `step` and `experiment`, the place of the result in a table.
        changed: other keys, with `__` for each dot of a dotted key, and perhaps ahead of a key.
    """
    correct = [4, 0, 3, 1] if correct is None else correct
    model = f"outputs/{experiment}/{rule}-s{seed}/{step}" if rule else "some/base-model"
    found = {
        "kind": "evaluation",
        "task": task,
        "task_version": 1,
        "sampling": {"samples": SAMPLES, "temperature": 1.0, "top_p": 1.0, "max_tokens": 3072},
        "template": {"name": "boxed", "version": "0123456789ab"},
        "data": {
            "file": f"data/{task}.parquet",
            "sha256": f"{task}-data",
            "problems": len(correct),
        },
        "model": {"path": model, "sha256": f"weights of {model}"},
        "run": rule
        and {
            "experiment": experiment,
            "rule": rule,
            "seed": seed,
            "overrides": [],
            "step": step,
            "commit": COMMIT,
            "length_variation": 0.4,
            "length_gap": 0.2,
        },
        "reward": {"sandbox": "landlock"},
        "chat_template": {"enable_thinking": True},
        "seed": 0,
        "metrics": {
            "mean@4": sum(correct) / SAMPLES / len(correct),
            "standard_error": 0.01,
            "pass@2": 0.8,
            "pass@4": 0.9,
            "maj@2": 0.7,
            "maj@4": 0.75,
        },
        "rates": {"truncated": 0.02, "no_answer": 0.01, "parse_error": 0.0, "timeout": 0.0},
        "length": {"mean": 812.0, "correct": 700.0, "incorrect": 1100.0},
        "correct": correct,
        "seconds": {"grading": 10.0},
        "sampled": [{"commit": COMMIT, "versions": {}, "seconds": 100.0}],
        "tokens": 1623332,
        "commit": COMMIT,
        "command": "python -m eval.run",
        "versions": {"vllm": "0.1"},
    }
    for key, value in changed.items():
        *above, last = key.split("__")
        place = found
        for name in filter(None, above):
            place = place[name]
        place[last] = value
    return found


def write(folder: Path, **where: Any) -> Path:
    """Write a result file."""
    return write_content(folder, content(**where))


def write_content(folder: Path, found: dict[str, Any]) -> Path:
    """Write a result file of this content, named by run, step and task."""
    run = found["run"] or {"rule": "none", "seed": 0, "step": 0, "experiment": "none"}
    name = f"{run['rule']}-s{run['seed']}/step{run['step']}-{found['task']}.json"
    path = folder / run["experiment"] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def draw(chance: float, num_problems: int, *numbers: int) -> list[int]:
    """Draw the number of correct samples of each problem, the same for the same `numbers`.

    Problems differ in difficulty, which does not depend on the run.
    """
    hardness_P = np.random.default_rng(num_problems).uniform(-0.3, 0.3, num_problems)
    chance_P = np.clip(chance + hardness_P, 0.01, 0.99)
    return np.random.default_rng(numbers).binomial(SAMPLES, chance_P).tolist()


def laptop(folder: Path) -> Path:
    """Write the results of 2 rules, 3 seeds and 3 steps on one task, and of the initial model."""
    for r, (rule, gain) in enumerate((("token", 0.0), ("balanced", 0.03))):
        for seed in range(3):
            for step, chance in ((10, 0.4), (20, 0.55), (30, 0.58)):
                run_gap = {"run__length_gap": 0.3 + 0.02 * seed + 0.01 * r}
                write(
                    folder,
                    correct=draw(chance + gain, 256, r, seed, step),
                    task="arithmetic",
                    experiment="cpu_demo",
                    rule=rule,
                    seed=seed,
                    step=step,
                    **run_gap,
                )
    write(folder, correct=draw(0.3, 256, 9), task="arithmetic", rule=None)
    return folder


def rows_of(folder: Path, tasks: Sequence[str] = ()) -> list[TableRow]:
    """Return the rows of the results below a folder."""
    return arrange(read_results([folder]), tasks)


def table_of(rows: Sequence[TableRow], name: str, baseline: str = "token") -> Table:
    """Return one table by the beginning of its name, for example `average` or `task math500`."""
    frame = measurements(rows, baseline, published())
    kind, _, task = name.partition(" ")
    if kind == "average":
        return layout.average_table(frame, rows, published())
    if kind == "difference":
        return layout.difference_table(frame, rows, baseline)
    if kind == "task":
        return layout.task_table(frame, rows, task)
    return {"stability": layout.stability_table, "tasks": layout.tasks_table}[kind](frame, rows)


def cells(made: Table, line: int = 0) -> dict[str, str]:
    """Return the texts of a line by column."""
    return {head.text: cell.text for head, cell in zip(made.head, made.rows[line], strict=True)}


def notes(made: Table, column: str, line: int = 0) -> str:
    """Return the footnotes of a cell."""
    heads = [cell.text for cell in made.head]
    return " | ".join(made.rows[line][heads.index(column)].notes)


def estimates(made: Table, quantity: str) -> dict[str, tuple[float | None, ...]]:
    """Return the numbers of a quantity by method, None where a number is missing."""
    found = made.measurements[made.measurements.quantity == quantity]
    return {
        line.method: tuple(None if np.isnan(x) else x for x in (line.estimate, line.low, line.high))
        for line in found.itertuples()
    }
