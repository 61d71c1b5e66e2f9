"""Read the evaluation tasks: problems, template and sampling, one versioned file each.

A change that affects scores needs a new version. Tables refuse to mix two versions.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipe.base.errors import UserError
from recipe.base.problems import first_problem
from recipe.tasks import embedded
from recipe.tasks.rows import check_file, content_sha256, read_rows
from recipe.tasks.templates import TEMPLATES

TASKS = Path(__file__).parent / "definitions"


class Task(BaseModel):
    """The content of `recipe/tasks/definitions/NAME.yaml`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    """The name of the file, and of the data set that scripts.prepare_data makes."""
    version: int = Field(ge=1)
    """The version of everything below and of the prompts."""
    data_source: str
    """The data source of its rows, by which they are graded."""
    samples: int = Field(ge=1)
    """Number of responses to each problem."""
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    max_tokens: int = Field(ge=1)
    """Longest response; a model with fewer positions gives shorter ones."""
    template: str | None = None
    """Name of the template around each problem; None if the rows already contain their words."""
    made: str | None = None
    """The demo's task whose held-out rows these are; None if prepared from a public set."""

    @property
    def asked_by(self) -> dict[str, str] | None:
        """Return the template with the hash of its words."""
        if self.template is None:
            return None
        return {"name": self.template, "version": TEMPLATES[self.template].version}

    def file(self, data_root: str) -> Path:
        """Return the file of its problems."""
        if self.made:
            return Path(embedded.folder(self.made)) / "val.parquet"
        return Path(data_root).expanduser() / f"{self.name}.parquet"


class Problems(NamedTuple):
    """The problems of a task."""

    file: Path
    sha256: str
    """Hash of the rows, as in the manifest of scripts.prepare_data."""
    rows: list[dict[str, Any]]
    """In verl's schema: `data_source`, `prompt`, `reward_model`."""


def find(name: str) -> Task:
    """Return the task of this name.

    Raises:
        UserError: no task has this name, or a value of its file is not allowed.
    """
    path = TASKS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(path.stem for path in TASKS.glob("*.yaml"))
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no task {name!r}; known ones are {', '.join(known)}.{hint}")
    try:
        given = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise UserError(f"{path} must hold keys and values; see another file of this folder.")
    try:
        task = Task.model_validate({**given, "name": name})
    except ValidationError as error:
        problem = first_problem(error, Task)
        if problem.is_missing or problem.is_unknown:
            wanted = [k for k, f in Task.model_fields.items() if f.is_required() and k != "name"]
            raise UserError(
                f"{path}: {problem.key} is {'missing' if problem.is_missing else 'unknown'}. "
                f"It must have the keys {', '.join(wanted)}, and may have template and made."
            ) from None
        raise UserError(
            f"{path}: {problem.key} is {problem.found!r}, but must be {problem.allowed}."
        ) from None
    if task.template is not None and task.template not in TEMPLATES:
        raise UserError(f"{path}: template is {task.template!r}; there are {', '.join(TEMPLATES)}")
    return task


def load(task: Task, data_root: str) -> Problems:
    """Return the problems of a task.

    Raises:
        UserError: the file is missing, or a row has another data source or template.
    """
    if task.made:
        embedded.make(task.made)
    file, key = task.file(data_root), f"task {task.name}"
    check_file(file, key, data_root)
    rows = read_rows(file, key)
    if len(rows) < 2:
        raise UserError(
            f"{file} ({key}) holds {len(rows)} rows, but a task needs two problems or more. "
            f"Prepare it again."
        )
    for number, row in enumerate(rows):
        if row["data_source"] != task.data_source:
            raise UserError(
                f"{file} ({key}), row {number}: data_source is {row['data_source']!r}, but that of "
                f"the task is {task.data_source!r}. Name the folder that has it with --data-root."
            )
        asked = row["prompt"][-1]["content"]
        if task.template and not TEMPLATES[task.template].is_around(asked):
            raise UserError(
                f"{file} ({key}), row {number} does not ask by the template {task.template} of "
                f"version {task.version}: {asked!r:.80}. Prepare it again with `python -m "
                f"scripts.prepare_data {task.name} --template {task.template} --overwrite --out "
                f"{data_root}`."
            )
    return Problems(file, content_sha256(file), rows)


def files(names: Iterable[str], data_root: str) -> list[str]:
    """Return the files of several tasks for `data.val_files`."""
    return [str(find(name).file(data_root)) for name in names_of(names)]


def names_of(names: Iterable[str] | None) -> list[str]:
    """Return the tasks of `data.val_tasks`.

    Raises:
        UserError: the setting is a text, not a list.
    """
    if isinstance(names, str):
        raise UserError(f"data.val_tasks is {names}; it must be a list: data.val_tasks=[{names}]")
    return list(names or [])


def shared(names: Iterable[str], setting: str, without: float) -> float:
    """Return a setting that all tasks of a validation share, for example `temperature`.

    Args:
        names: the tasks.
        setting: an attribute of `Task`.
        without: the value if there is no task.

    Raises:
        UserError: the tasks have several values.
    """
    found = {name: getattr(find(name), setting) for name in names_of(names)}
    if not found:
        return without
    if len(set(found.values())) > 1:
        raise UserError(
            f"validation has one {setting} for all of its tasks, but they have "
            f"{', '.join(f'{name} {value}' for name, value in found.items())}. Choose tasks that "
            f"agree with data.val_tasks=[...], and evaluate the others with python -m eval.run."
        )
    return next(iter(found.values()))


def samples_by_source(names: Iterable[str]) -> dict[str, int]:
    """Return the number of samples of each problem by data source.

    Raises:
        UserError: two tasks share a data source, so verl would mix them.
    """
    found: dict[str, int] = {}
    for task in map(find, names):
        if task.data_source in found:
            raise UserError(
                f"data.val_tasks has two tasks of the data source {task.data_source}, and "
                f"validation tells them apart by it. Validate on one of them."
            )
        found[task.data_source] = task.samples
    return found
