"""Train one run.

    python -m recipe.main +experiment=cpu_demo aggregation=balanced seed=0

Writes OUTPUT_ROOT/EXPERIMENT/RULE-sSEED[-HASH]/ with config.yaml, metrics.jsonl, run.log,
report.md, pictures and summary.json; prints one line a step.
"""

import importlib
import io
import os
import platform
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import hydra
import pyarrow.parquet as pq
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import embedded
from recipe.checks import check_data, check_settings, data_files
from recipe.console import Progress, clock, held_out_accuracy, output_to
from recipe.errors import UserError
from recipe.outputs import (
    open_folder,
    other_overrides,
    provenance,
    read_metrics,
    run_folder,
    write_summary,
)
from recipe.overrides import ROOT, WRONG_OVERRIDES, check_choice, explanation, help_text
from recipe.processes import Watch, only_local_run, temporary_folder
from recipe.report import write_report

INTERRUPTED = 130


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
    except (KeyboardInterrupt, SystemExit) as stop:
        # Ray answers SIGTERM by leaving with its number.
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:
            raise
        print("stopped; nothing was left running", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run(config: DictConfig, overrides: list[str]) -> None:
    """One run, from a composed config to its report."""
    started = time.monotonic()
    folder = run_folder(config, overrides)
    name_run(config, folder, overrides)
    OmegaConf.resolve(config)
    check_settings(config)
    if "task" in config.data:
        embedded.make(config.data.task)
    check_data(config)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        run_verl = prepare_verl(config)
    with (
        only_local_run(embedded.cache() / f"run-{platform.node()}.lock")
        if owns_ray()
        else nullcontext()
    ):
        open_folder(folder, config)
        (folder / "run.log").write_text(said.getvalue())
        print(f"{config.experiment_name}: aggregation={config.aggregation.rule} seed={config.seed}")
        print(f"log: {folder / 'run.log'}")
        with output_to(folder / "run.log") as terminal:
            measured = train(run_verl, config, folder, terminal)

    records = read_metrics(folder)
    held_out = [x for x in (held_out_accuracy(data) for _, data in records) if x is not None]
    summary = {
        "experiment": config.experiment_name,
        "rule": config.aggregation.rule,
        "seed": config.seed,
        "overrides": other_overrides(overrides),
        "steps": records[-1][0],
        "seconds": round(time.monotonic() - started, 1),
        "val_start": held_out[0] if held_out else None,
        "val_end": held_out[-1] if held_out else None,
        **measured,
        **provenance(),
    }
    written = write_report(folder, records, summary)
    write_summary(folder, summary)
    if held_out:
        print(
            f"held-out prompts right: {held_out[0]:.1%} at the start, {held_out[-1]:.1%} at the end"
        )
    print(f"{summary['steps']} steps in {clock(summary['seconds'])}, "
          f"peak memory {summary['peak_memory_gib']} GiB")  # fmt: skip
    for path in [*written, folder / "summary.json"]:
        print(f"wrote {path}")


def name_run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Checkpoints go into the run's folder and loggers show its name, unless overridden."""
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "trainer.default_local_dir" not in named:
        config.trainer.default_local_dir = str(folder / "checkpoints")
    if "trainer.experiment_name" not in named:
        config.trainer.experiment_name = f"{config.experiment_name}-{folder.name}"


def train(
    run_verl: Callable[[], None], config: DictConfig, folder: Path, terminal: TextIO
) -> dict[str, Any]:
    """Run verl's trainer, and watch.

    Returns:
        startup_seconds until the first record, and peak_memory_gib over all processes.
    """
    with temporary_folder() as temporary, Watch() as watch:
        ray_init = config.ray_kwargs.ray_init
        with open_dict(ray_init):
            ray_init.runtime_env.env_vars.update(environment(folder, temporary))
            if owns_ray():
                ray_init["_temp_dir"] = str(temporary / "ray")
                # Or Ray would keep one in the home folder.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            else:
                # A cluster has its resources; Ray refuses to be told them again.
                for key in ("num_cpus", "num_gpus", "object_store_memory", "include_dashboard"):
                    ray_init.pop(key, None)
        os.environ |= ray_init.runtime_env.env_vars
        with Progress(folder / "metrics.jsonl", num_steps(config), terminal) as progress:
            try:
                run_verl()
            except Exception as error:
                traceback.print_exc()
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise UserError(
                    f"training failed: {reason}. The whole story is in {folder / 'run.log'}."
                ) from error
    assert progress.startup_seconds is not None, "verl trained without logging a step"
    return {
        "startup_seconds": round(progress.startup_seconds, 1),
        "peak_memory_gib": round(watch.peak_gib, 2),
    }


def owns_ray() -> bool:
    """Whether Ray starts with this run, rather than being a cluster (RAY_ADDRESS) it joins."""
    return "RAY_ADDRESS" not in os.environ


def environment(folder: Path, temporary: Path) -> dict[str, str]:
    """Environment of the driver and of every worker, beside what the cluster config sets."""
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "TMPDIR": str(temporary),
        # Kept, or vLLM would compile its kernel anew for every run.
        "TORCHINDUCTOR_CACHE_DIR": str(embedded.cache() / "torchinductor"),
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "WANDB_DIR": str(folder),
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def prepare_verl(config: DictConfig) -> Callable[[], None]:
    """Import verl under the platform of the config and validate it; returns what trains.

    Raises:
        UserError: verl's own validation refused the config, or its loss takes no weights.
    """
    os.environ |= config.ray_kwargs.ray_init.runtime_env.env_vars
    # Hydra has imported verl before the environment said what to load with it.
    importlib.import_module("verl_patches")
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.utils.device import auto_set_device

    from recipe.composition import check_loss
    from recipe.trainer import AggregationTaskRunner

    auto_set_device(config)
    try:
        validate_config(config, need_reference_policy(config), need_critic(config))
    except (AssertionError, ValueError) as error:
        raise UserError(f"verl refuses this config: {error}") from None
    check_loss(omega_conf_to_dataclass(config.actor_rollout_ref.actor))
    return lambda: run_ppo(config, AggregationTaskRunner)


def num_steps(config: DictConfig) -> int:
    """Steps of the run, if verl drops no prompt."""
    if config.trainer.total_training_steps is not None:
        return config.trainer.total_training_steps
    num_rows = sum(pq.read_metadata(path).num_rows for path in data_files(config, "train_files"))
    return num_rows // config.data.train_batch_size * config.trainer.total_epochs


def command_line() -> None:
    """`main`, with our own help, and what Hydra finds wrong in the overrides in one paragraph."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except WRONG_OVERRIDES as error:
        sys.exit(f"error: {explanation(error, sys.argv[1:])}")


if __name__ == "__main__":
    command_line()
