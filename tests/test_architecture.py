"""Which room may import which, and the size of files.

A room is a folder, or one of the files below. It may import itself, the rooms named beside it, and
nothing else of this project or of verl. A room stands below every room that it imports, so there is
no circle.
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "recipe/base": "",
    "recipe/maths": "",
    "recipe/aggregation.py": "recipe/maths",
    "recipe/run": "recipe/base recipe/maths",
    "recipe/analysis": "recipe/base recipe/maths recipe/run",
    "recipe/estimate": "recipe/base",
    "reward/errors.py": "",
    "reward/math": "recipe/base reward/errors.py",
    "reward/code": "recipe/base reward/errors.py",
    "reward/steps": "",
    "reward": "recipe/base reward/errors.py reward/math reward/code reward/steps",
    "recipe/tasks": "recipe/base reward",
    "verl_patches": "verl",
    "recipe/objectives": "recipe/base recipe/maths verl",
    "recipe/config": "recipe/base recipe/maths recipe/estimate recipe/tasks recipe/objectives "
    "reward reward/steps",
    "recipe/training": "recipe/base recipe/maths recipe/estimate recipe/tasks recipe/objectives "
    "recipe/config reward reward/errors.py reward/steps verl verl_patches",
    "recipe/sampling": "recipe/base recipe/maths recipe/run reward",
    "recipe/probes": "recipe/base recipe/maths recipe/objectives recipe/training recipe/sampling "
    "verl",
    "recipe/estimator": "recipe/base recipe/maths recipe/sampling recipe/probes",
    "recipe/study": "recipe/base recipe/maths recipe/tasks recipe/objectives recipe/config "
    "recipe/training recipe/sampling recipe/estimator verl",
    "recipe": "recipe/base recipe/maths recipe/run recipe/analysis recipe/estimate recipe/tasks "
    "recipe/objectives recipe/config recipe/training recipe/probes recipe/estimator verl",
    "eval/stats.py": "recipe/tasks",
    "eval/published.py": "recipe/base",
    "eval/tables": "recipe/base recipe/maths recipe/tasks eval/stats.py eval/published.py",
    "eval/sampling": "recipe/base recipe/run recipe/sampling recipe/tasks reward reward/errors.py",
    "eval": "recipe/base recipe/run recipe/tasks recipe/config reward reward/errors.py "
    "eval/stats.py eval/published.py eval/sampling eval/tables",
    "scripts/data": "recipe/base recipe/tasks reward reward/math",
    "scripts": "recipe recipe/base recipe/run recipe/tasks recipe/config recipe/estimate eval "
    "scripts/data",
}
# The mathematics can be lifted out of the project: it needs torch and these.
MATHS_NEEDS = {"torch", "numpy", "annotated_types"}
OURS = ("recipe", "eval", "reward", "scripts", "verl_patches", "tests", "benchmarks", "examples")


@cache
def python_files() -> tuple[str, ...]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(name for name in listed.stdout.split() if (ROOT / name).exists())


def room_of(name: str) -> str:
    """Return the room of a file or of a module's path."""
    fits = [room for room in MAY_IMPORT if name == room or name.startswith(f"{room}/")]
    return max(fits, key=len, default=name.partition("/")[0])


def imported(name: str) -> set[str]:
    """Return the modules that a file imports at any depth, as paths."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split("/")[: -node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    paths = set()
    for module in found:
        parts = module.split(".")
        candidates = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
        known = (f"{c}.py" for c in candidates if f"{c}.py" in python_files())
        package = (c for c in candidates if f"{c}/__init__.py" in python_files())
        paths.add(next(known, next(package, module.replace(".", "/"))))
    return paths


@pytest.mark.parametrize("name", [n for n in python_files() if room_of(n) in MAY_IMPORT])
def test_a_room_imports_only_the_rooms_that_it_may(name):
    room = room_of(name)
    rooms = {room_of(path) for path in imported(name) if path.startswith((*OURS, "verl/"))}
    assert rooms - {room} <= set(MAY_IMPORT[room].split())


def test_no_room_stands_above_one_that_it_imports():
    order = ["verl", *MAY_IMPORT]
    for room, others in MAY_IMPORT.items():
        above = order[: order.index(room)]
        assert [other for other in others.split() if other not in above] == [], room


def test_every_file_has_a_room():
    rooms = {name.partition("/")[0] for name in python_files()}
    assert rooms <= set(OURS) | {"docs"}


@pytest.mark.parametrize("name", [n for n in python_files() if room_of(n) == "recipe/maths"])
def test_the_mathematics_needs_no_other_package(name):
    outside = {path.partition("/")[0] for path in imported(name)} - {"recipe"}
    assert outside <= MATHS_NEEDS | set(sys.stdlib_module_names)
    # The library has another name, so within the room imports are relative.
    assert "recipe.maths" not in (ROOT / name).read_text()


def test_no_file_is_longer_than_350_lines():
    long = {n: c for n in python_files() if (c := len((ROOT / n).read_text().splitlines())) > 350}
    assert not long


def test_no_tracked_file_names_a_path_of_somebodys_machine():
    command = ["git", "grep", "-nIE", r"/(home|root|work)/[a-z]", "--", ".", f":!{__file__}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == ""
