"""Read evaluation results strictly: one JSON file for each task and evaluated checkpoint.

A file is a result if it contains `"kind": "evaluation"`. Its values are checked once, here; what
several results must agree in is checked where they meet (`eval/tables/grid.py`).

Axes: `_P` problems.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipe.base.problems import first_problem

KIND = "evaluation"
# Folders of runs that were moved aside (NAME~1, ...), and of checkpoints.
OTHER = re.compile(r"~|global_step_\d+/(actor|.*huggingface)|(^|/)exported(/|$)")
# A written mean may be rounded; that of other samples is seldom this near.
ROUNDING = 1e-3
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of a result file. A value of another type is refused, and so is NaN."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Sampling(Part):
    """The settings of sampling."""

    samples: int = Field(ge=1)
    temperature: float
    top_p: float
    max_tokens: int


class Template(Part):
    """The template around each problem."""

    name: str
    version: str


class Data(Part):
    """The problems."""

    file: str
    sha256: str
    problems: int


class EvaluatedModel(Part):
    """The weights that were sampled from."""

    path: str
    sha256: str


class TrainingRun(Part):
    """The run that trained an evaluated checkpoint."""

    experiment: str
    method: str = Field(alias="rule")
    seed: int
    overrides: tuple[str, ...] = Field(strict=False)
    step: int
    commit: str | None
    length_variation: float | None
    """Mean over the training steps up to `step`, as the next."""
    length_gap: float | None

    @property
    def row(self) -> str:
        """Return the name that this run shares with the runs of other methods and seeds."""
        return " ".join([self.experiment, *sorted(self.overrides)])


class Rates(Part):
    """Shares of the samples that ended in these ways."""

    truncated: Share
    no_answer: Share
    parse_error: Share
    timeout: Share


class Lengths(Part):
    """Mean lengths of responses in tokens."""

    mean: float
    correct: float | None
    incorrect: float | None


class Session(Part):
    """The code of one sampling session."""

    commit: str | None
    versions: dict[str, Any]


class Evaluation(Part):
    """The content of a result file. Further keys are allowed."""

    task: str
    task_version: int
    sampling: Sampling
    template: Template | None
    data: Data
    model: EvaluatedModel
    run: TrainingRun | None
    reward: dict[str, Any]
    chat_template: dict[str, Any]
    seed: int
    metrics: dict[str, float | None]
    rates: Rates
    length: Lengths
    correct: list[int]
    """The number of correct samples of each problem."""
    seconds: dict[str, Any]
    sampled: list[Session]
    tokens: int
    commit: str | None
    command: str
    versions: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Result:
    """One task, evaluated on one checkpoint."""

    file: Path
    content: dict[str, Any]
    """All that the file holds, for comparing results key by key."""
    evaluation: Evaluation
    """The same, typed."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.evaluation.task

    @property
    def run(self) -> TrainingRun | None:
        """Return the run that trained the model; None for a model of another origin."""
        return self.evaluation.run

    @property
    def num_samples(self) -> int:
        """Return the samples of each problem."""
        return self.evaluation.sampling.samples

    @property
    def model(self) -> str:
        """Return the path or name of the evaluated model."""
        return self.evaluation.model.path

    @property
    def correct_P(self) -> NDArray[np.int64]:
        """Return the number of correct samples of each problem."""
        return np.array(self.evaluation.correct, np.int64)

    @property
    def value_P(self) -> NDArray[np.float64]:
        """Return the mean score of each problem's samples."""
        return self.correct_P / self.num_samples


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Return every result below these folders, in order of their paths.

    Raises:
        ValueError: a folder is not there or holds none, a file cannot be read as a result, or two
            are of the same checkpoint and task.
    """
    found: dict[Path, Result] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; name folders that hold evaluation results.")
        results = [result for path in json_files(folder) if (result := read_result(path))]
        if not results:
            raise ValueError(
                f'no evaluation below {folder}, that is, no JSON file with "kind": "{KIND}"; '
                f"name a folder that evaluations were written to."
            )
        # Folders that were named may hold each other.
        found |= {result.file.resolve(): result for result in results}
    results = list(found.values())
    refuse_copies(results)
    return results


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files below a folder, without those of runs moved aside and of models."""
    paths = sorted(folder.glob("**/*.json"))
    return [p for p in paths if not OTHER.search(str(p.relative_to(folder).parent))]


def read_result(path: Path) -> Result | None:
    """Return the result in a file; None if the file holds something else.

    Raises:
        ValueError: the file is not JSON, or a value is missing or not allowed.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}: it is not JSON ({error}). Evaluate again, or move the file away."
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return None
    try:
        evaluation = Evaluation.model_validate(content)
    except ValidationError as error:
        problem = first_problem(error, Evaluation)
        if problem.is_missing:
            raise ValueError(
                f"{path}: {problem.key} is missing. Every evaluation has it; evaluate again."
            ) from None
        raise refusal(path, problem.key, problem.found, problem.allowed) from None
    check_values(path, evaluation)
    return Result(path, content, evaluation)


def check_values(path: Path, found: Evaluation) -> None:
    """Refuse counts that are impossible or contradict each other.

    Raises:
        ValueError: there is one.
    """
    samples, problems = found.sampling.samples, found.data.problems
    for number, count in enumerate(found.correct):
        if not 0 <= count <= samples:
            raise refusal(path, f"correct[{number}]", count, f"a whole number from 0 to {samples}")
    if len(found.correct) != problems or problems < 2:
        raise refusal(
            path,
            "correct",
            f"a list of {len(found.correct)}",
            f"one number for each of the {problems} problems of data.problems, two at least",
        )
    mean = sum(found.correct) / samples / problems
    written = found.metrics.get(f"mean@{samples}")
    if written is None or abs(written - mean) > ROUNDING:
        raise refusal(path, f"metrics.mean@{samples}", written, f"{mean:.4f}, the mean of correct")


def refusal(path: Path, key: str, found: Any, allowed: str) -> ValueError:
    """Return the error about a value that is not allowed."""
    shown = found if isinstance(found, str) else json.dumps(found)
    return ValueError(
        f"{path}: {key} is {shown if shown else 'an empty text'}, but must be {allowed}. "
        f"Evaluate again, or move the file away."
    )


def refuse_copies(results: Iterable[Result]) -> None:
    """Refuse two results of one checkpoint and task, and a checkpoint that is two models.

    Raises:
        ValueError: there are such, with both files.
    """
    by_place: dict[tuple[Any, ...], Result] = {}
    by_checkpoint: dict[tuple[Any, ...], Result] = {}
    for result in results:
        run = result.run
        checkpoint = (run.row, run.method, run.seed, run.step) if run else (result.model,)
        other = by_place.setdefault((*checkpoint, result.task), result)
        if other is not result:
            raise ValueError(
                f"{other.file} and {result.file} are both of {' '.join(map(str, checkpoint))}, "
                f"{result.task}. Keep one of them."
            )
        other = by_checkpoint.setdefault(checkpoint, result)
        one, two = (found.evaluation.model.sha256 for found in (other, result))
        if one != two:
            raise ValueError(
                f"{other.file} and {result.file} are of one checkpoint, "
                f"{' '.join(map(str, checkpoint))}, but model.sha256 is {one} and {two}: it was "
                f"trained or exported again between them. Evaluate both tasks on one model."
            )
