"""Plan the runs of a sweep: experiments x methods x seeds, each with its composed config."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from eval.runs import HEAD, read_summaries, rows
from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS
from recipe.base.tables import markdown_table
from recipe.config.compose import composed, resolve
from recipe.estimate.gpus import num_gpus
from recipe.estimate.hours import gpu_hours
from recipe.run.folder import is_finished, leaves, name_run, run_folder

SWEEPS = CONFIGS / "sweep"


@dataclass(frozen=True)
class Grid:
    """Hold the contents of `configs/sweep/NAME.yaml`; every combination is a run."""

    experiments: tuple[str, ...]
    rules: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str) -> "Grid":
        """Read the sweep stored under `name`.

        Raises:
            UserError: there is none, or its keys are others than a grid's.
        """
        path = SWEEPS / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(path.stem for path in SWEEPS.glob("*.yaml")))
            raise UserError(f"there is no sweep {name}; {SWEEPS} has {known}.")
        given = OmegaConf.to_container(OmegaConf.load(path))
        wanted = set(cls.__dataclass_fields__)
        if not isinstance(given, dict) or not wanted - {"overrides"} <= set(given) <= wanted:
            raise UserError(f"{path} must have the keys {', '.join(sorted(wanted))}.")
        if not all(isinstance(value, list) for value in given.values()):
            raise UserError(f"{path} must have a list under each key, e.g. seeds: [0].")
        return cls(**{str(key): tuple(value) for key, value in given.items()})

    def cells(self) -> Iterable[list[str]]:
        """Yield the overrides of each run; seeds change fastest."""
        for experiment, rule, seed in product(self.experiments, self.rules, self.seeds):
            yield [f"+experiment={experiment}", *choices(rule), f"seed={seed}", *self.overrides]


def choices(method: str) -> list[str]:
    """Return the overrides of a method, its parts joined by +.

    They are RULE[+ADVANTAGE][+OBJECTIVE], an objective alone or a preset.
    """

    def group(name: str, otherwise: str) -> str:
        of_its_own = ("objective", "preset")
        found = [one for one in of_its_own if (CONFIGS / one / f"{name}.yaml").is_file()]
        return found[0] if found and name != "policy_gradient" else otherwise

    first, *added = method.split("+")
    found = [f"{group(first, 'aggregation')}={first}"]
    return found + [f"{group(name, 'advantage')}={name}" for name in added]


class PlannedRun(NamedTuple):
    """Hold one run of a sweep."""

    name: str
    """`EXPERIMENT.RULE-sSEED[-HASH]`, the same for the same overrides."""
    arguments: tuple[str, ...]
    """The arguments of `recipe.main`."""
    config: DictConfig
    digest: str
    """A hash of the resolved config, without what differs between machines."""
    folder: Path

    @property
    def command(self) -> list[str]:
        """Return the arguments of the interpreter."""
        return ["-m", "recipe.main", *self.arguments]

    @property
    def env(self) -> dict[str, str]:
        """Return W&B's variables: one W&B run for all attempts, one group for all seeds."""
        seed = rf"-s{self.config.seed}(-\w+)?$"
        return {
            "WANDB_RUN_ID": f"{self.name}-{self.digest}",
            "WANDB_RESUME": "allow",
            "WANDB_RUN_GROUP": re.sub(seed, r"\1", self.name),
            "WANDB_JOB_TYPE": "train",
        }

    @property
    def gpus(self) -> int:
        """Return how many GPUs it needs; on a CPU they are logical."""
        return num_gpus(self.config)

    @property
    def own_gpus(self) -> int:
        """Return 0: Ray gives all GPUs to its actors."""
        return 0

    @property
    def is_finished(self) -> bool:
        """Return whether its report exists, as far as this machine sees the outputs.

        Raises:
            UserError: the folder holds a run with another config.
        """
        return is_finished(self.folder, self.config)

    @property
    def is_missing(self) -> bool:
        """Return whether this machine sees the output folder, and no finished run in it."""
        return self.folder.parents[1].is_dir() and not self.is_finished

    @property
    def on_cpu(self) -> bool:
        """Return whether the run needs no GPU."""
        return self.config.trainer.device == "cpu"


def plan(grid: Grid, places: Iterable[str]) -> list[PlannedRun]:
    """Compose every run of a grid; `places` are overrides that say where data and outputs are.

    Raises:
        UserError: two of the runs have one name.
    """
    runs: dict[str, PlannedRun] = {}
    for cell in grid.cells():
        overrides = [*cell, *places, "trainer.resume_mode=auto"]
        config = composed(overrides)
        folder = run_folder(config, overrides)
        name_run(config, folder, overrides)
        resolve(config)
        name = f"{config.experiment_name}.{folder.name}"
        if name in runs:
            raise UserError(f"the sweep has {name} twice; name every experiment, rule, seed once.")
        runs[name] = PlannedRun(name, tuple(overrides), config, config_sha256(config), folder)
    return list(runs.values())


def config_sha256(config: DictConfig) -> str:
    """Return the SHA-256 of a config by its dotted keys, in 16 digits."""
    flat: dict[str, Any] = dict(leaves(config))
    text = json.dumps(flat, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def print_plan(runs: list[PlannedRun]) -> None:
    """Print the runs, and the estimated cost of those on GPUs."""
    table, total, notes = [], 0.0, set()
    for run in runs:
        gpus = hours = "-"
        if not run.on_cpu:
            gpus, hours = str(run.gpus), "?"
            try:
                cost = gpu_hours(run.config)
            except UserError as error:
                notes.add(f"Not estimated: {error}")
            else:
                hours, total = f"{cost.total:,.0f}", total + cost.total
                notes.add(cost.assumptions)
        steps = run.config.trainer.total_training_steps or "by its data"
        table.append((run.name, gpus, str(steps), hours))
    print("\n".join(markdown_table(("run", "GPUs", "steps", "GPU-hours"), table)))
    print(f"{len(runs)} runs" + (f", {total:,.0f} GPU-hours" if total else ""))
    print(*sorted(notes), sep="\n")


def print_results(runs: list[PlannedRun]) -> None:
    """Print the table of finished runs, if this machine sees the outputs."""
    summaries = [
        summary for run in runs if run.is_finished for summary in read_summaries(run.folder)
    ]
    if summaries:
        print("\n".join(markdown_table(HEAD, rows(summaries))))
