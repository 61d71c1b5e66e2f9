"""Train one run.

    python -m recipe.main +experiment=cpu_demo aggregation=balanced seed=0

Writes OUTPUT_ROOT/EXPERIMENT/ARM-sSEED[-HASH]/ with config.yaml, metrics.jsonl, run.log,
report.md, pictures and summary.json; prints one line a step.
"""

import importlib
import io
import os
import secrets
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import (
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from typing import Any, TextIO

import hydra
import pyarrow.parquet as pq
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from recipe.base.command import INTERRUPTED
from recipe.base.errors import UserError
from recipe.base.files import sha256_of_files
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance
from recipe.config.checks import check_settings
from recipe.config.compose import hydra_compose, resolve
from recipe.config.data import check_data, data_files
from recipe.config.help import help_text
from recipe.config.hydra_errors import WRONG_OVERRIDES, check_choice, explanation
from recipe.config.machine import check_cpu_set, check_disk, check_weight_buffer
from recipe.config.settings import Settings
from recipe.run.cluster import (
    ALONE,
    Session,
    alone_with_ray,
    check_place,
    environment,
    owns_ray,
    session,
)
from recipe.run.console import Progress, clock, held_out_ends, output_to
from recipe.run.folder import (
    holds_same_run,
    is_finished,
    method_of,
    name_run,
    new_folder,
    other_overrides,
    read_metrics,
    run_folder,
    write_summary,
)
from recipe.run.journal import Journal
from recipe.run.processes import Watch, alone, clean_up_killed
from recipe.run.report import write_report
from recipe.tasks import embedded

# Bytes left on a disk at which what failed to be written is no riddle.
FULL = 2**20


@hydra.main(config_path=str(ROOT / "configs"), config_name="base", version_base=None)
def main(config: DictConfig) -> None:
    """Check the config, train, report."""
    # Jobs are ended by SIGTERM: leave by the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        given = HydraConfig.get()
        check_choice(given.runtime.choices, given.overrides.task)
        run(config, given.overrides.task)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(
            f"error: {error.filename}: {error.strerror}. Look at that place, its rights and the "
            f"space on its disk, and give the same command again."
        )
    except (KeyboardInterrupt, SystemExit) as stop:
        # Ray answers SIGTERM by leaving with its number.
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:
            raise
        print("stopped; nothing was left running", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run(config: DictConfig, overrides: list[str]) -> None:
    """Do one run, from a composed config to its report."""
    started = time.monotonic()
    folder = run_folder(config, overrides)
    name_run(config, folder, overrides)
    resolve(config)
    settings = check_settings(config)
    if config.trainer.device == "cpu":
        check_cpu_set()
    check_place(settings.output_root)
    if settings.made_task:
        embedded.make(settings.made_task)
    check_data(config, settings)
    if config.trainer.device == "cpu":
        check_weight_buffer(config)
    with session(config) as here:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            run_verl = prepare_verl(config, settings)
        lock = folder.with_name(f".{folder.name}.lock")
        with alone(lock, "this run", ALONE), alone_with_ray():
            if is_finished(folder, config):
                print(
                    f"this run is finished: {folder / 'report.md'}. To train it again, add "
                    f"trainer.resume_mode=disable; the finished one then moves aside."
                )
                return
            check_disk(config, folder)
            clean_up_killed()
            journal = open_journal(folder, config)
            print(f"{config.experiment_name}: {method_of(config)}, seed {config.seed}")
            print(f"log: {folder / 'run.log'}")
            if journal.begins_after:
                print(
                    f"goes on after step {journal.begins_after}, from its last complete checkpoint"
                )
            with output_to(folder / "run.log") as terminal:
                print(said.getvalue())
                measured = train(run_verl, config, journal, terminal, here)
            journal.close()
            measured["seconds"] = round(journal.seconds_before + time.monotonic() - started, 1)
            conclude(config, folder, measured, overrides)


def open_journal(folder: Path, config: DictConfig) -> Journal:
    """Open the journal of a new or resumed run, and tell verl where to start."""
    trainer, data = config.trainer, sha256_of_files(data_files(config, "train_files"))
    keep, checkpoint = trainer.max_actor_ckpt_to_keep, None
    if holds_same_run(folder, config) and trainer.resume_mode != "disable":
        checkpoint = Journal(folder).last_complete()
    if checkpoint is None:
        aside = new_folder(folder, config)
        if aside is not None and trainer.resume_mode != "disable":
            print(
                f"No complete checkpoint was found, so this run starts from step 0. "
                f"The previous files are in {aside}"
            )
        if trainer.resume_mode == "auto":
            trainer.resume_mode = "disable"
    else:
        trainer.resume_mode, trainer.resume_from_path = "resume_path", str(checkpoint)
        # It was validated, and the metrics say how.
        trainer.val_before_train = False
    journal = Journal(folder, data, keep)
    journal.begin(checkpoint, provenance())
    return journal


def conclude(
    config: DictConfig, folder: Path, measured: dict[str, Any], overrides: list[str]
) -> None:
    """Write report and summary, and say what came out."""
    records = read_metrics(folder)
    start, end = held_out_ends(records)
    summary = {
        "experiment": config.experiment_name,
        "rule": method_of(config),
        "seed": config.seed,
        "overrides": other_overrides(overrides),
        "steps": records[-1][0],
        "val_start": start,
        "val_end": end,
        **measured,
        **provenance(),
    }
    written = write_report(folder, records, summary)
    write_summary(folder, summary)
    if start is not None:
        last = "not measured" if end is None else f"{end:.1%}"
        print(f"held-out accuracy: {start:.1%} at the start, {last} at the end")
    peak = summary["peak_memory_gib"]
    print(
        f"{summary['steps']} steps in {clock(summary['seconds'])}"
        + (f", peak memory {peak} GiB" if peak is not None else "")
    )
    for path in [*written, folder / "summary.json"]:
        print(f"wrote {path}")


def train(
    run_verl: Callable[[], None],
    config: DictConfig,
    journal: Journal,
    terminal: TextIO,
    here: Session,
) -> dict[str, Any]:
    """Run verl's trainer, and watch.

    Returns:
        startup_seconds until the first record, peak_memory_gib over all processes (None on a
        cluster), and every start of the run.
    """
    log = journal.folder / "run.log"
    with Watch(here.folder) as watch:
        ray_init = config.ray_kwargs.ray_init
        with open_dict(ray_init):
            ray_init.runtime_env.env_vars.update(environment(journal, here.folder))
            if here.python:
                ray_init.runtime_env.py_executable = here.python
            if owns_ray():
                ray_init["_temp_dir"] = str(here.folder / "ray")
                # Or Ray would keep one in the home folder.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            else:
                # A cluster has its resources; Ray refuses to be told them again.
                for key in ("num_cpus", "num_gpus", "object_store_memory", "include_dashboard"):
                    ray_init.pop(key, None)
        os.environ |= ray_init.runtime_env.env_vars
        with Progress(journal, num_steps(config), terminal) as progress:
            try:
                run_verl()
            except Exception as error:
                with suppress(OSError):
                    traceback.print_exc()
                raise UserError(
                    f"training failed: {cause(error, journal.folder)}. The whole story is in "
                    f"{log}. The same command resumes from the last complete checkpoint, if there "
                    f"is one."
                ) from error
    # Killed between its last step and the report, a run has nothing more to log.
    assert progress.startup_seconds is not None or journal.begins_after, "verl logged no step"
    return {
        "startup_seconds": round(progress.startup_seconds or 0.0, 1),
        "peak_memory_gib": round(watch.peak_gib, 2) if owns_ray() else None,
        "starts": journal.starts(),
    }


def cause(error: Exception, folder: Path) -> str:
    """Return why training failed: the last line of the error, and what is known about it."""
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    if shutil.disk_usage(folder).free < FULL:
        return f"the disk of {folder} is full (last error: {last})"
    # Ray gives an error the class that it had in the worker, too.
    if any(base.__module__.startswith("wandb.") for base in type(error).__mro__):
        return (
            f"W&B could not be used (last error: {last}). See to the network and the key, or set "
            f"WANDB_MODE=offline and send the run later with `wandb sync {folder}/wandb/*run-*`"
        )
    return last


def prepare_verl(config: DictConfig, settings: Settings) -> Callable[[], None]:
    """Import verl for the device of the config, check it, and return the function that trains.

    Raises:
        UserError: verl's own validation refused the config, or its loss takes no weights.
    """
    os.environ |= config.ray_kwargs.ray_init.runtime_env.env_vars
    # Hydra has imported verl before the environment said what to load with it.
    for name in os.environ["VERL_USE_EXTERNAL_MODULES"].split(","):
        importlib.import_module(name.strip())
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from recipe.training import border

    # Before our own modules import what may have gone.
    border.check()
    from recipe.training.trainer import AggregationTaskRunner

    auto_set_device(config)
    try:
        validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, ValueError) as error:
        raise UserError(f"verl refuses this config: {error}") from None
    settings.begin(config).check()
    return lambda: run_ppo(config, AggregationTaskRunner)


def num_steps(config: DictConfig) -> int:
    """Return the number of steps, provided that verl drops no prompt."""
    if config.trainer.total_training_steps is not None:
        return config.trainer.total_training_steps
    num_rows = sum(pq.read_metadata(path).num_rows for path in data_files(config, "train_files"))
    return num_rows // config.data.train_batch_size * config.trainer.total_epochs


def command_line() -> None:
    """Run `main` with our own help, and explain in one paragraph what Hydra refuses."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except WRONG_OVERRIDES as error:
        sys.exit(f"error: {explanation(error, sys.argv[1:], hydra_compose)}")


if __name__ == "__main__":
    command_line()
