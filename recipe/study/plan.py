"""Read a study and say which runs it has: cells x arms x learning rates x seeds.

A study is a file of `configs/study`. In every cell, each arm first runs with every learning rate on
the selection seeds; the best rate of an arm is then run on all seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from recipe.base.errors import UserError
from recipe.base.paths import ROOT

Result = dict[str, Any]


class Run(NamedTuple):
    """Represent one run of a study."""

    cell: str
    arm: str
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Study:
    """Hold the contents of a study's file."""

    overrides: Sequence[str]
    """Hold overrides of the config of every run."""
    cells: Mapping[str, Sequence[str]]
    """Further overrides by the name of the cell: its task, its updates a step."""
    arms: Mapping[str, Sequence[str]]
    """Name what is compared: overrides of the method."""
    learning_rates: Sequence[float]
    selection_seeds: Sequence[int]
    """Seeds on which an arm's learning rate is chosen; none of them is among the seeds."""
    seeds: int
    """Count the paired seeds of every arm, from 0 on."""
    held_out_every: int
    """Steps between two looks at the held-out problems."""
    held_out_samples: int
    """Responses to each held-out problem."""
    results: str
    """Folder of results and predictions, in this project."""
    predict: Sequence[str]
    """Rules that the estimator judges in every cell before it is trained; none: no prediction."""

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a study.

        Raises:
            UserError: there is none, its keys are others, or its seeds overlap.
        """
        if not path.is_file():
            raise UserError(f"there is no study {path}. configs/study has those of this project.")
        given: Any = OmegaConf.to_container(OmegaConf.load(path))
        wanted = set(cls.__dataclass_fields__)
        if not isinstance(given, dict) or set(given) != wanted:
            raise UserError(f"{path} must have the keys {', '.join(sorted(wanted))}.")
        study = cls(**{str(key): value for key, value in given.items()})
        if set(study.selection_seeds) & set(range(study.seeds)):
            raise UserError(
                f"{path} chooses learning rates on seeds {list(study.selection_seeds)} and "
                f"compares on 0 to {study.seeds - 1}. Give other selection_seeds: a rate that was "
                f"chosen on a seed looks better on it."
            )
        return study

    @property
    def folder(self) -> Path:
        """Return the folder of results and predictions."""
        return ROOT / self.results

    @property
    def num_runs(self) -> int:
        """Return how many runs the study has."""
        rates = len(self.learning_rates)
        selecting = rates * len(self.selection_seeds) if rates > 1 else 0
        return len(self.cells) * len(self.arms) * (selecting + self.seeds)

    def config_overrides(self, run: Run) -> list[str]:
        """Return the overrides of a run's config."""
        return [
            *self.overrides,
            *self.cells[run.cell],
            *self.arms[run.arm],
            f"actor_rollout_ref.actor.optim.lr={run.learning_rate}",
            f"seed={run.seed}",
        ]

    def selection(self, cell: str) -> Iterator[Run]:
        """Yield the runs of a cell that choose learning rates; none with one rate."""
        if len(self.learning_rates) > 1:
            for seed, rate, arm in product(self.selection_seeds, self.learning_rates, self.arms):
                yield Run(cell, arm, rate, seed)

    def comparison(self, cell: str, rates: Mapping[str, float]) -> Iterator[Run]:
        """Yield the runs of a cell that compare the arms, all arms of a seed together."""
        for seed, arm in product(range(self.seeds), self.arms):
            yield Run(cell, arm, rates[arm], seed)

    def rates(self, cell: str, results: Sequence[Result]) -> dict[str, float]:
        """Return the learning rate of each arm: the one with the largest area in the selection.

        Raises:
            ValueError: a run of the selection is missing.
        """
        if len(self.learning_rates) == 1:
            return dict.fromkeys(self.arms, self.learning_rates[0])
        areas = {run_of(result): area(result) for result in results}
        missing = [run for run in self.selection(cell) if run not in areas]
        if missing:
            raise ValueError(f"{missing[0]} has no result")
        return {
            arm: max(
                self.learning_rates,
                key=lambda rate: fmean(
                    areas[Run(cell, arm, rate, seed)] for seed in self.selection_seeds
                ),
            )
            for arm in self.arms
        }


def run_of(result: Result) -> Run:
    """Return the run whose result this is."""
    return Run(*(result[name] for name in Run._fields))


def area(result: Result) -> float:
    """Return the mean over steps of the share of correct training responses."""
    return fmean(result["correct"])
