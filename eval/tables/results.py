"""Evaluation results, read strictly: one JSON file for each task and evaluated checkpoint.

A file is a result if it holds `"kind": "evaluation"`. Its values are checked once, here; what
several results must agree in is checked where they meet (`eval/tables/grid.py`).

Axes: `_P` problems.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KIND = "evaluation"
# Folders of runs that were moved aside (NAME~1, ...), and of checkpoints.
OTHER = re.compile(r"~|global_step_\d+/(actor|.*huggingface)|(^|/)exported(/|$)")
NUMBER = (int, float)
# Of every key the types that it may have, or the keys below it; further keys are kept as they are.
CONTENT: dict[str, Any] = {
    "task": (str,),
    "task_version": (int,),
    "sampling": {
        "samples": (int,),
        "temperature": NUMBER,
        "top_p": NUMBER,
        "max_tokens": (int,),
    },
    "template": (dict, type(None)),
    "data": {"file": (str,), "sha256": (str,), "problems": (int,)},
    "model": {"path": (str,), "sha256": (str,)},
    "run": (dict, type(None)),
    "reward": (dict,),
    "chat_template": (dict,),
    "seed": (int,),
    "metrics": (dict,),
    "rates": {"truncated": NUMBER, "no_answer": NUMBER, "parse_error": NUMBER, "timeout": NUMBER},
    "length": {
        "mean": NUMBER,
        "correct": (*NUMBER, type(None)),
        "incorrect": (*NUMBER, type(None)),
    },
    "correct": (list,),
    "seconds": (dict,),
    "sampled": (list,),
    "tokens": (int,),
    "commit": (str, type(None)),
    "command": (str,),
    "versions": (dict,),
}
SESSION: dict[str, Any] = {"commit": (str, type(None)), "versions": (dict,)}
TEMPLATE: dict[str, Any] = {"name": (str,), "version": (str,)}
RUN: dict[str, Any] = {
    "experiment": (str,),
    "rule": (str,),
    "seed": (int,),
    "overrides": (list,),
    "step": (int,),
    "commit": (str, type(None)),
    "length_variation": (*NUMBER, type(None)),
    "length_gap": (*NUMBER, type(None)),
}
IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
    type(None): "null",
}
# A written mean may be rounded; that of other samples is seldom this near.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Run:
    """The run that trained an evaluated checkpoint."""

    experiment: str
    rule: str
    seed: int
    overrides: tuple[str, ...]
    step: int
    commit: str | None
    length_variation: float | None
    """Mean over the training steps up to `step`, as the next."""
    length_gap: float | None

    @property
    def row(self) -> str:
        """What it has in common with the runs of other rules and seeds."""
        return " ".join([self.experiment, *self.overrides])


@dataclass(frozen=True, eq=False)
class Result:
    """One task, evaluated on one checkpoint."""

    file: Path
    content: dict[str, Any]
    """All that the file holds."""
    run: Run | None
    """None of a model that is no run of ours."""
    correct_P: NDArray[np.int64]
    """Right samples of each problem."""

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.content["task"]

    @property
    def num_samples(self) -> int:
        """Samples of each problem."""
        return self.content["sampling"]["samples"]

    @property
    def model(self) -> str:
        """Path or name of the evaluated model."""
        return self.content["model"]["path"]

    @property
    def value_P(self) -> NDArray[np.float64]:
        """Mean score of each problem's samples."""
        return self.correct_P / self.num_samples


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Every result below these folders, in order of their paths.

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
    """JSON files below a folder, but for those of runs moved aside and of models."""
    paths = sorted(folder.glob("**/*.json"))
    return [p for p in paths if not OTHER.search(str(p.relative_to(folder).parent))]


def read_result(path: Path) -> Result | None:
    """The result in a file; None if it holds something else.

    Raises:
        ValueError: it is no JSON, or a value is missing or cannot be.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}: it is not JSON ({error}). Evaluate again, or move the file away."
        ) from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        return None
    check(path, content, CONTENT)
    if content["template"] is not None:
        check(path, content["template"], TEMPLATE, "template.")
    for number, session in enumerate(content["sampled"]):
        if not isinstance(session, dict):
            raise wrong(path, f"sampled[{number}]", session, IN_WORDS[dict])
        check(path, session, SESSION, f"sampled[{number}].")
    check_values(path, content)
    run = None
    if content["run"] is not None:
        check(path, content["run"], RUN, "run.")
        known = {key: content["run"][key] for key in RUN}
        if not all(isinstance(override, str) for override in known["overrides"]):
            raise wrong(path, "run.overrides", known["overrides"], "a list of texts")
        run = Run(**known | {"overrides": tuple(sorted(known["overrides"]))})
    return Result(path, content, run, np.array(content["correct"], np.int64))


def check(path: Path, content: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> None:
    """Refuse a missing key and a value of another type.

    Raises:
        ValueError: there is one.
    """
    for key, types in expected.items():
        if key not in content:
            raise ValueError(
                f"{path}: {prefix}{key} is missing. An evaluation has all of "
                f"{', '.join(prefix + name for name in expected)}; evaluate again."
            )
        value = content[key]
        if isinstance(types, dict):
            if not isinstance(value, dict):
                raise wrong(path, prefix + key, value, IN_WORDS[dict])
            check(path, value, types, f"{prefix}{key}.")
        elif not is_one_of(value, types):
            words = [IN_WORDS[kind] for kind in types if not (kind is int and float in types)]
            raise wrong(path, prefix + key, value, " or ".join(words))


def is_one_of(value: Any, types: Sequence[type]) -> bool:
    """Whether a value has one of these types; true and false are no numbers, nor is NaN."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, tuple(types))


def check_values(path: Path, content: dict[str, Any]) -> None:
    """Refuse numbers that cannot be, and those that contradict each other.

    Raises:
        ValueError: there is one.
    """
    correct, samples = content["correct"], content["sampling"]["samples"]
    if samples < 1:
        raise wrong(path, "sampling.samples", samples, "at least 1")
    for number, count in enumerate(correct):
        if not is_one_of(count, (int,)) or not 0 <= count <= samples:
            raise wrong(path, f"correct[{number}]", count, f"a whole number from 0 to {samples}")
    problems = content["data"]["problems"]
    if len(correct) != problems or problems < 2:
        raise wrong(
            path,
            "correct",
            f"a list of {len(correct)}",
            f"one number for each of the {problems} problems of data.problems, two at least",
        )
    for key, rate in content["rates"].items():
        if is_one_of(rate, NUMBER) and not 0 <= rate <= 1:
            raise wrong(path, f"rates.{key}", rate, "a number from 0 to 1")
    for key, value in content["metrics"].items():
        if not is_one_of(value, (*NUMBER, type(None))):
            raise wrong(path, f"metrics.{key}", value, "a number or null")
    mean = sum(correct) / samples / problems
    written = content["metrics"].get(f"mean@{samples}")
    if written is None or abs(written - mean) > ROUNDING:
        raise wrong(path, f"metrics.mean@{samples}", written, f"{mean:.4f}, the mean of correct")


def wrong(path: Path, key: str, found: Any, allowed: str) -> ValueError:
    """The error about a value that cannot be."""
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
        checkpoint = (run.row, run.rule, run.seed, run.step) if run else (result.model,)
        other = by_place.setdefault((*checkpoint, result.task), result)
        if other is not result:
            raise ValueError(
                f"{other.file} and {result.file} are both of {' '.join(map(str, checkpoint))}, "
                f"{result.task}. Keep one of them."
            )
        other = by_checkpoint.setdefault(checkpoint, result)
        one, two = (found.content["model"]["sha256"] for found in (other, result))
        if one != two:
            raise ValueError(
                f"{other.file} and {result.file} are of one checkpoint, "
                f"{' '.join(map(str, checkpoint))}, but model.sha256 is {one} and {two}: it was "
                f"trained or exported again between them. Evaluate both tasks on one model."
            )
