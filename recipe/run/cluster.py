"""Set up the Ray that a run trains on: one of its own, or that of a cluster."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.base.paths import ROOT, cache
from recipe.run.journal import Journal
from recipe.run.processes import alone, temporary_folder
from recipe.run.template import Template, client

ALONE = (
    "Two at a time would mix up their weights. Wait for it or stop it. To train several runs on "
    "one machine, give them to one Ray cluster (python -m scripts.submit)."
)
# Set by Ray in the driver of a job.
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# These import what the processes of a run import.
IMPORTED = (
    "recipe.training.trainer",
    "recipe.training.worker",
    "verl.trainer.main_ppo",
    "verl.experimental.agent_loop",
    "vllm.v1.engine.async_llm",
)


def alone_with_ray() -> AbstractContextManager[None]:
    """Hold this machine's lock while a Ray of the run's own is up.

    verl names its weight-sync sockets in /tmp by Ray's job id, and the first job of every new Ray
    has the same id. Two runs at a time would send each other their weights.
    """
    if not owns_ray():
        return nullcontext()
    return alone(
        cache() / f"run-{platform.node()}.lock", "another run with a Ray of its own", ALONE
    )


class Session(NamedTuple):
    """Hold what a run has on this machine while it goes on."""

    folder: Path
    """The folder of its temporary files."""
    python: str | None
    """The command that starts a worker of Ray; None for Python itself."""


@contextmanager
def session(config: DictConfig) -> Iterator[Session]:
    """Make a temporary folder and, on a CPU, the template whose forks are the workers.

    Each node of a cluster gets a template of its own from the first worker there.
    """
    with temporary_folder() as folder:
        if config.trainer.device != "cpu":
            yield Session(folder, None)
            return
        if not owns_ray():
            yield Session(folder, client(",".join(IMPORTED)))
            return
        # As many threads as Ray gives to an actor that asks for no CPUs, as verl's do not. torch
        # reads the number when it is imported.
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        environment |= config.ray_kwargs.ray_init.runtime_env.env_vars
        with Template(folder, IMPORTED, environment) as template:
            yield Session(folder, template.command)


def owns_ray() -> bool:
    """Return whether this run starts its own Ray, instead of joining a cluster (RAY_ADDRESS)."""
    return "RAY_ADDRESS" not in os.environ


def environment(journal: Journal, temporary: Path) -> dict[str, str]:
    """Return the environment of the driver and every worker, beside what the cluster config sets.

    Variables that a Ray job's own runtime environment sets are left out, because Ray refuses to set
    a variable twice.
    """
    ours = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # Kept between runs, or vLLM would compile its kernel again for each.
        "TORCHINDUCTOR_CACHE_DIR": str(cache() / "torchinductor"),
        "VERL_FILE_LOGGER_PATH": str(journal.verl_metrics),
        "WANDB_DIR": str(journal.folder),
        "WANDB_RUN_ID": os.environ.get("WANDB_RUN_ID", journal.run_id),
        "WANDB_RESUME": "allow",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if owns_ray():
        ours["TMPDIR"] = str(temporary)
    job = json.loads(os.environ.get(JOB, "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in ours.items() if name not in given}


def check_place(output_root: str) -> None:
    """Check that a Ray job does not write into its working directory, a copy that Ray removes.

    Raises:
        UserError: `output_root` is a relative path in a Ray job.
    """
    if JOB in os.environ and not Path(output_root).is_absolute():
        raise UserError(
            f"output_root is {output_root}, but a Ray job runs in a copy of this folder, and Ray "
            f"removes the copy. Name a folder that all nodes see, output_root=/shared/outputs, or "
            f"submit with python -m scripts.submit --output-root."
        )
