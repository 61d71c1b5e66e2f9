"""The examples run as their first lines say."""

import subprocess
import sys

import pytest

from recipe.base.paths import ROOT


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weigh_a_group", "green is correct"),
        ("analyse_a_dump", "Responses became longer"),
        ("rank_your_rule", "root "),
    ],
)
def test_an_example_runs(name, said, tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", f"examples.{name}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
