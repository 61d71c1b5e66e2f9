import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from recipe.base.errors import UserError
from recipe.tasks import task as tasks
from recipe.tasks.task import TASKS, Task, find, load
from recipe.tasks.templates import TEMPLATES
from reward.sources import RewardSettings

SIX = ("math500", "aime24", "aime25", "olympiadbench", "minerva", "livecodebench")


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """A folder of tasks that a test may change."""
    folder = tmp_path / "tasks"
    shutil.copytree(TASKS, folder)
    monkeypatch.setattr(tasks, "TASKS", folder)
    return folder


def change(folder, name, **values):
    path = folder / f"{name}.yaml"
    given = yaml.safe_load(path.read_text()) | values
    path.write_text(yaml.safe_dump({k: v for k, v in given.items() if v != "gone"}))


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_has_a_version_a_history_and_a_source_that_the_grader_knows(path):
    task = find(path.stem)
    RewardSettings().find(task.data_source)
    assert f"# Version {task.version}:" in path.read_text()
    assert (task.made is None) == (task.template is not None)


def test_the_six_benchmarks_of_the_paper_are_there():
    assert {find(name).name for name in SIX} == set(SIX)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no task 'aime26'.*Did you mean aime2\d\?"):
        find("aime26")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"samples": "gone"}, "samples is missing. It must have the keys"),
        ({"num_fewshot": 3}, "num_fewshot is unknown. It must have the keys"),
        ({"samples": "32"}, "samples is '32', but must be a whole number"),
        ({"max_tokens": 0.5}, "max_tokens is 0.5, but must be a whole number"),
        ({"version": True}, "version is True, but must be a whole number"),
        ({"samples": 0}, "samples is 0, but must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0, but must be at least 0"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be more than 0"),
        ({"template": "boxd"}, "template is 'boxd'; there are"),
    ],
)
def test_a_task_file_that_is_not_one_is_refused(own_tasks, values, problem):
    change(own_tasks, "aime24", **values)
    with pytest.raises(UserError, match=problem):
        find("aime24")


def test_a_task_file_that_is_no_yaml_is_refused(own_tasks):
    (own_tasks / "aime24.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"aime24\.yaml is no YAML"):
        find("aime24")


def write(folder: Path, task: Task, content: str, source: str | None = None) -> None:
    import pyarrow as pa

    row = {
        "data_source": source or task.data_source,
        "prompt": [{"role": "user", "content": content}],
        "reward_model": {"ground_truth": "34", "style": "rule"},
    }
    pq.write_table(pa.Table.from_pylist([row, row]), folder / f"{task.name}.parquet")


def test_problems_are_loaded_with_the_hash_of_their_rows(tmp_path):
    task = find("aime24")
    write(tmp_path, task, TEMPLATES["dapo"].wrap("What is 30 + 4?"))
    first = load(task, str(tmp_path))
    assert [row["reward_model"]["ground_truth"] for row in first.rows] == ["34", "34"]
    write(tmp_path, task, TEMPLATES["dapo"].wrap("What is 33 + 1?"))
    assert load(task, str(tmp_path)).sha256 != first.sha256


def test_a_missing_file_a_wrong_source_and_another_template_are_refused(tmp_path):
    task = find("aime24")
    with pytest.raises(UserError, match=r"Make it with `python -m scripts.prepare_data aime24 "):
        load(task, str(tmp_path))
    write(tmp_path, task, TEMPLATES["dapo"].wrap("What?"), source="aime25")
    with pytest.raises(UserError, match=r"row 0: data_source is 'aime25', but that of the task"):
        load(task, str(tmp_path))
    write(tmp_path, task, TEMPLATES["boxed"].wrap("What?"))
    with pytest.raises(UserError, match=r"does not ask by the template dapo.*--template dapo"):
        load(task, str(tmp_path))
    (tmp_path / "aime24.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load(task, str(tmp_path))


def test_verls_settings_are_those_that_the_tasks_share(own_tasks):
    assert tasks.shared(["aime24", "math500"], "temperature", 0.7) == 1.0
    assert tasks.shared([], "temperature", 0.7) == 0.7
    change(own_tasks, "aime24", temperature=0.6)
    with pytest.raises(UserError, match=r"aime24 0.6, math500 1.0.*data.val_tasks"):
        tasks.shared(["aime24", "math500"], "temperature", 0.7)
    with pytest.raises(UserError, match=r"must be a list: data.val_tasks=\[aime24\]"):
        tasks.files("aime24", "data")
