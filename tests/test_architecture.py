"""The arrows between the folders, and the size of their files."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"recipe", "verl_patches", "reward", "eval", "scripts", "tests", "benchmarks"}

# What a file or folder may import of our own packages and of verl. Longest prefix wins.
MAY_IMPORT = {
    "recipe": {"recipe", "verl_patches", "verl"},
    "recipe/training/trainer.py": {"recipe", "reward", "verl"},
    "recipe/maths/rules.py": set(),
    "recipe/maths/columns.py": set(),
    "recipe/maths/diagnostics.py": set(),
    "recipe/maths/disco.py": set(),
    "recipe/advantages": {"recipe"},
    "recipe/config/methods.py": {"recipe"},
    "recipe/config/combinations.py": {"recipe"},
    "recipe/maths/learned.py": {"recipe"},
    "recipe/config/settings.py": {"recipe"},
    "recipe/base/tables.py": set(),
    "recipe/config/batches.py": {"recipe"},
    "recipe/config/checks.py": {"recipe"},
    "recipe/config/data.py": {"recipe", "reward"},
    "recipe/training/rewards.py": {"reward"},
    "recipe/config/compose.py": {"recipe", "eval"},
    "recipe/training/validation.py": {"recipe", "eval", "reward"},
    "recipe/config/numbers.py": {"recipe"},
    "recipe/estimate/shapes.py": {"recipe"},
    "recipe/memory.py": {"recipe"},
    "recipe/cost.py": {"recipe"},
    "recipe/run/report.py": {"recipe"},
    "recipe/run/console.py": {"recipe"},
    "recipe/run/processes.py": {"recipe"},
    "recipe/analyze.py": {"recipe"},
    "recipe/analysis": {"recipe"},
    "recipe/analysis/advantages.py": set(),
    "recipe/probe.py": {"recipe"},
    "recipe/probes": {"recipe"},
    "recipe/probes/stage.py": {"recipe", "reward", "verl"},
    "verl_patches": {"verl_patches", "verl"},
    "reward": {"reward"},
    "reward/grade.py": {"reward", "recipe"},
    "eval": {"eval", "recipe", "reward"},
    "eval/stats.py": set(),
    "scripts": {"scripts"},
    "scripts/data": {"scripts", "recipe", "reward"},
    "scripts/prepare_data.py": {"scripts", "recipe"},
    "scripts/jobs/sweep.py": {"recipe"},
    "scripts/jobs/ray_jobs.py": {"scripts", "recipe"},
    "scripts/submit.py": {"scripts", "recipe", "eval"},
    "scripts/export.py": {"recipe"},
}
PURE = ("recipe/maths/rules.py", "recipe/maths/diagnostics.py")


def python_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split() if (ROOT / name).exists()]


def imports(name: str) -> set[str]:
    """Top-level packages a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", [n for n in python_files() if n.partition("/")[0] in OURS])
def test_imports_follow_the_arrows(name):
    prefixes = [p for p in MAY_IMPORT if name == p or name.startswith(p + "/")]
    if prefixes:
        allowed = MAY_IMPORT[max(prefixes, key=len)]
        assert imports(name) & (OURS | {"verl"}) <= allowed
    else:
        assert name.startswith(("tests/", "benchmarks/"))


@pytest.mark.parametrize("name", PURE)
def test_the_pure_maths_needs_torch_alone(name):
    assert imports(name) <= {"torch", "collections", "math", "typing"}


def test_no_file_is_longer_than_350_lines():
    long = {n: c for n in python_files() if (c := len((ROOT / n).read_text().splitlines())) > 350}
    assert not long


def test_no_tracked_file_names_a_path_of_somebodys_machine():
    command = ["git", "grep", "-nIE", r"/(home|root|work)/[a-z]", "--", ".", f":!{__file__}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == ""
