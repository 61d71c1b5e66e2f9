"""Read the tasks: which problems, asked how, sampled how. One versioned file each in definitions/.

Whatever changes a score needs another version: tables refuse to mix two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recipe.base.errors import UserError
from recipe.tasks import embedded
from recipe.tasks import task as tasks
from recipe.tasks.rows import check_file, content_sha256, read_rows
from recipe.tasks.templates import TEMPLATES

TASKS = Path(__file__).parent / "definitions"
NUMBER, WHOLE, TEXT = (int, float), (int,), (str, type(None))
WORDS = {NUMBER: "a number", WHOLE: "a whole number", (str,): "a text", TEXT: "a text or null"}
TYPES: dict[str, tuple[type, ...]] = {
    "version": WHOLE,
    "data_source": (str,),
    "samples": WHOLE,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "max_tokens": WHOLE,
    "template": TEXT,
    "made": TEXT,
}


@dataclass(frozen=True)
class Task:
    """What `recipe/tasks/definitions/NAME.yaml` holds.

    Attributes:
        name: of the file, and of the data set that scripts.prepare_data makes.
        version: of everything below and of the prompts.
        data_source: of its rows, by which they are graded.
        samples: responses to each problem.
        temperature: of sampling.
        top_p: of sampling.
        max_tokens: of a response; a model with fewer positions has fewer.
        template: around each problem, by name; None if the rows are made with their words.
        made: the demo's task whose held-out rows these are; None if prepared from a public set.
    """

    name: str
    version: int
    data_source: str
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    template: str | None = None
    made: str | None = None

    @property
    def asked_by(self) -> dict[str, str] | None:
        """The template and the hash of its words."""
        if self.template is None:
            return None
        return {"name": self.template, "version": TEMPLATES[self.template].version}

    def file(self, data_root: str) -> Path:
        """Where its problems are."""
        if self.made:
            return Path(embedded.folder(self.made)) / "val.parquet"
        return Path(data_root).expanduser() / f"{self.name}.parquet"


class Problems(NamedTuple):
    """The problems of a task, as they were read."""

    file: Path
    sha256: str
    """Of the rows, as the manifest of scripts.prepare_data has it."""
    rows: list[dict[str, Any]]
    """In verl's schema: `data_source`, `prompt`, `reward_model`."""


def find(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: there is none, or its file is not as a task's must be.
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
    wanted = set(TYPES) - {"made", "template"}
    if not isinstance(given, dict) or not wanted <= set(given) <= set(TYPES):
        raise UserError(
            f"{path} must have the keys {', '.join(sorted(wanted))}, and may have template and made"
        )
    for key, value in given.items():
        if not isinstance(value, TYPES[key]) or isinstance(value, bool):
            raise UserError(f"{path}: {key} is {value!r}, but must be {WORDS[TYPES[key]]}.")
    task = Task(name, **given)
    if not (task.samples >= 1 and task.max_tokens >= 1 and task.version >= 1):
        raise UserError(f"{path}: version, samples and max_tokens must be 1 or more")
    if not (task.temperature >= 0 and 0 < task.top_p <= 1):
        raise UserError(f"{path}: temperature must not be negative, and 0 < top_p <= 1")
    if task.template is not None and task.template not in TEMPLATES:
        raise UserError(f"{path}: template is {task.template!r}; there are {', '.join(TEMPLATES)}")
    return task


def load(task: Task, data_root: str) -> Problems:
    """The problems of a task, in its data source and asked by its template.

    Raises:
        UserError: they are not there, or not so.
    """
    if task.made:
        embedded.make(task.made)
    file, key = task.file(data_root), f"task {task.name}"
    check_file(file, key, data_root)
    rows = read_rows(file, key)
    if len(rows) < 2:
        raise UserError(
            f"{file} ({key}) holds {len(rows)} rows, and nothing can be said of fewer than two "
            f"problems. Prepare it again."
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
    """The files of several tasks, as `data.val_files` takes them."""
    return [str(find(name).file(data_root)) for name in names_of(names)]


def names_of(names: Iterable[str] | None) -> list[str]:
    """The tasks that `data.val_tasks` lists.

    Raises:
        UserError: it is one text.
    """
    if isinstance(names, str):
        raise UserError(f"data.val_tasks is {names}; it must be a list: data.val_tasks=[{names}]")
    return list(names or [])


def shared(names: Iterable[str], setting: str, without: float) -> float:
    """A setting that verl has once for all of validation, as `temperature`.

    Raises:
        UserError: the tasks have several.
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
    """Samples of each problem by data source, as the tasks have them.

    Raises:
        UserError: two tasks have one data source, by which verl would mix them.
    """
    found: dict[str, int] = {}
    for task in map(tasks.find, names):
        if task.data_source in found:
            raise UserError(
                f"data.val_tasks has two tasks of the data source {task.data_source}, and "
                f"validation tells them apart by it. Validate on one of them."
            )
        found[task.data_source] = task.samples
    return found
