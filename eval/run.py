"""Sample the tasks' problems from a model, and grade the responses with the training reward.

    python -m eval.run outputs/EXPERIMENT/RULE-sSEED --tasks math500 aime24 --steps all
    python -m eval.run Qwen/Qwen3-1.7B --tasks aime25 --chat-template enable_thinking=true

Results of a run go to RUN/eval/global_step_N, those of other models to outputs/eval/MODEL. Each
task has TASK.json (the result), TASK.samples.jsonl, TASK.graded.jsonl and TASK.setup.json. The same
command continues a stopped evaluation and keeps its samples. Grading is repeated each time.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from eval.sampling.grading import grade, verdict_settings
from eval.sampling.models import Model, find_models
from eval.sampling.task_sampling import TaskSampling, prepare_tasks, sample_tasks
from eval.tables.results import KIND
from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.files import write_atomically
from recipe.base.provenance import provenance
from recipe.config.data import check_truths
from recipe.config.settings import uses_this_reward
from recipe.run.console import clock
from recipe.run.processes import alone, clean_up_killed
from recipe.tasks.task import Problems, Task, find, load
from reward.errors import RewardError
from reward.sources import RewardSettings

STOPPED = "Stopped. All samples so far are kept; run the same command again to continue."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    command = command_parser("eval.run", __doc__)
    add = command.add_argument
    add(
        "models",
        nargs="+",
        metavar="RUN_OR_MODEL",
        help="folders of runs, checkpoints or models, or OWNER/NAME of the hub",
    )
    add(
        "--tasks",
        nargs="+",
        required=True,
        help="names of recipe/tasks/definitions, with spaces or commas",
    )
    add("--steps", nargs="+", default=["last"], help="of runs: last, all or numbers (last)")
    add("--data-root", default="data", help="where scripts.prepare_data wrote (data)")
    add("--out", type=Path, default=Path("outputs/eval"), help="for models that are no run's")
    add("--seed", type=int, default=0, help="of the samples (0)")
    add("--max-tokens", type=int, help="of a response, instead of the task's and the run's limit")
    add(
        "--chat-template",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="given to the chat template, beside what a run was trained with",
    )
    add("--grade-only", action="store_true", help="sample nothing, grade what is there again")
    add("--workers", type=int, default=2, help="processes at work on grading (2)")
    add("--tensor-parallel", type=int, default=1, help="GPUs that share a model (1)")
    add("--data-parallel", type=int, default=1, help="copies of the model at work (1)")
    add("--gpu-memory", type=float, default=0.9, help="part of a GPU that vLLM takes (0.9)")
    return command


def evaluate(model: Model, tasks: list[tuple[Task, Problems]], options: argparse.Namespace) -> None:
    """Sample and grade the tasks for one model."""
    settings = reward_settings(model, options.workers)
    model.results.mkdir(parents=True, exist_ok=True)
    busy = f"an evaluation into {model.results}"
    with alone(model.results / ".lock", busy, "Wait for it or stop it."):
        folder = model.ready()
        jobs = list(prepare_tasks(model, folder, tasks, options))
        missing = sum(job.num_missing for job in jobs)
        print(f"{model.name}: {missing} samples to go", flush=True)
        if missing and options.grade_only:
            raise UserError(f"{model.results} lacks {missing} samples. Leave out --grade-only.")
        if missing:
            sample_tasks(folder, jobs, model.results / "sampling.log", options)
        for job in jobs:
            samples = [job.samples[key] for key in sorted(job.samples)]
            kept = model.results / f"{job.task.name}.graded.jsonl"
            result = grade(samples, job.problems, settings, kept, sys.stderr)
            write_result(model, job, settings, result)


def check_numbers(options: argparse.Namespace) -> None:
    """Refuse numbers below 1.

    Raises:
        UserError: there is one.
    """
    for name in ("max_tokens", "workers", "tensor_parallel", "data_parallel"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more.")


def reward_settings(model: Model, workers: int) -> RewardSettings:
    """Return the settings of the training reward.

    Raises:
        UserError: the run was trained with another reward function.
    """
    if model.config and not uses_this_reward(model.config):
        raise UserError(
            f"{model.name} was trained with {model.config.reward.custom_reward_function.path}. "
            f"Export it elsewhere (python -m scripts.export RUN --out DIR) and evaluate DIR, which "
            f"is then graded with reward/."
        )
    return RewardSettings.of({**model.reward, "workers": workers})


def write_result(
    model: Model, job: TaskSampling, settings: RewardSettings, result: dict[str, Any]
) -> None:
    """Write TASK.json, and print a summary of it."""
    setup, task = job.setup, job.task
    whole = {
        "kind": KIND,
        **setup,
        "template": task.asked_by,
        "data": {"file": without_home(job.problems.file), **setup["data"]},
        "model": {"path": without_home(model.folder), **setup["model"]},
        "run": model.run,
        "reward": verdict_settings(settings),
        **result,
        "sampled": job.file.sessions(),
        **provenance("eval.run"),
    }
    path = model.results / f"{task.name}.json"
    # A line a key: the counts of all problems on one.
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in whole.items())
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
    metrics = result["metrics"]
    best = ", ".join(f"{k} {v:.1%}" for k, v in metrics.items() if k.endswith(f"@{task.samples}"))
    print(
        f"{task.name}: {best} (standard error {metrics['standard_error']:.1%}), "
        f"{result['rates']['truncated']:.1%} truncated: {path}",
        flush=True,
    )


def without_home(path: Path | str) -> str:
    """Return a path without the home folder."""
    return str(path).replace(str(Path.home()), "~", 1)


def main() -> None:
    """Evaluate, and print an error as one paragraph."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = parser().parse_args()
    started = time.monotonic()
    with errors_reported(RewardError, OSError, stopped=STOPPED):
        check_numbers(options)
        names = [name for word in options.tasks for name in word.split(",") if name]
        found = [find(name) for name in dict.fromkeys(names)]
        chosen = [
            m for name in options.models for m in find_models(name, options.steps, options.out)
        ]
        clean_up_killed()
        tasks = [(task, load(task, options.data_root)) for task in found]
        # Before hours of sampling, and once: the tests of code are gigabytes.
        for settings in {reward_settings(model, options.workers) for model in chosen}:
            for _, problems in tasks:
                check_truths(settings, problems.rows)
        for model in chosen:
            evaluate(model, tasks, options)
    print(
        f"{len(chosen)} models in {clock(time.monotonic() - started)}; "
        f"python -m eval.table makes the tables"
    )


if __name__ == "__main__":
    main()
