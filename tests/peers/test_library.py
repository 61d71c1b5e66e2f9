"""The wheel and the sdist, in an environment that has torch and nothing of verl."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers/library/bin/python"
CHECK = """
import doctest, importlib.metadata, importlib.util
import balanced_aggregation as ba
from balanced_aggregation import library
found = doctest.testmod(library)
assert found.attempted >= 5 and found.failed == 0, found
assert not any(map(importlib.util.find_spec, ("verl", "ray", "hydra", "transformers", "recipe")))
print(ba.report([2, 4, 6], [1.0, -0.5, -0.5], ["a", "a", "a"]))
"""


def build(source, kind, folder):
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Return the wheel of the checkout, and that of its sdist."""
    direct = build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))
    with tarfile.open(build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))) as packed:
        unpacked = tmp_path_factory.mktemp("unpacked")
        packed.extractall(unpacked, filter="data")
    return direct, build(next(unpacked.iterdir()), "wheel", tmp_path_factory.mktemp("again"))


def test_the_sdist_gives_the_same_wheel(wheels):
    direct, again = (
        {name: packed.read(name) for name in packed.namelist() if not name.endswith("RECORD")}
        for packed in map(zipfile.ZipFile, wheels)
    )
    assert direct == again


def test_the_library_works_where_there_is_torch_alone(wheels, tmp_path):
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheels[0])]
    subprocess.run([PYTHON, *install], check=True)
    subprocess.run([PYTHON, "-m", "pip", "check"], check=True)
    done = subprocess.run([PYTHON, "-c", CHECK], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "balanced" in done.stdout
