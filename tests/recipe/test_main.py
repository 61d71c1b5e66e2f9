import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayTaskError
from wandb.errors import CommError

from recipe.config.groups import groups
from recipe.main import cause

ROOT = Path(__file__).parents[2]


INCORRECT = {
    "+experiment=nope": "there is no config experiment/nope; known ones are cpu_demo",
    "+experiment=cpu_demo aggregation=tokens": "known ones are balanced, balanced_batch",
    "+experiment=cpu_demo trainer.nodes=1": "no key trainer.nodes to override; the nearest known: "
    "trainer.nnodes",
    "+experiments=cpu_demo": "The nearest is experiment.",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """The command with each of these overrides, started together: importing takes seconds."""
    folder = tmp_path_factory.mktemp("empty")
    running = {
        overrides: subprocess.Popen(
            [sys.executable, "-m", "recipe.main", *overrides.split()],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for overrides in INCORRECT
    }
    said = {overrides: run.communicate()[1] for overrides, run in running.items()}
    return folder, said, {overrides: run.returncode for overrides, run in running.items()}


@pytest.mark.slow
@pytest.mark.parametrize("overrides", INCORRECT)
def test_a_wrong_override_is_answered_in_one_paragraph(overrides, refused):
    folder, said, code = refused
    [line] = said[overrides].splitlines()
    assert code[overrides] == 1
    assert line.startswith("error: ")
    assert INCORRECT[overrides] in line
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_help_is_short():
    command = [sys.executable, "-m", "recipe.main", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "+experiment=" in said
    # A line for each option, and a screen of what else matters.
    assert len(said.splitlines()) < sum(map(len, groups().values())) + 50


LOSS = """
from verl.trainer.ppo.core_algos import get_policy_loss_fn, register_policy_loss


@register_policy_loss("mine")
def mine(**columns):
    return get_policy_loss_fn("vanilla")(**columns)
"""
PREPARE = """
import sys
from recipe.config.settings import Settings
from recipe.main import prepare_verl
from recipe.config.compose import composed, resolve

config = composed(["+experiment=cpu_demo", *sys.argv[1:]])
resolve(config)
prepare_verl(config, Settings.of(config))
"""


@pytest.mark.parametrize("modules", ["verl_patches,my_losses", "verl_patches"])
def test_a_loss_of_ones_own_is_taken_if_its_module_is_named(modules, tmp_path):
    (tmp_path / "my_losses.py").write_text(LOSS)
    named = f'ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES="{modules}"'
    mode = "actor_rollout_ref.actor.policy_loss.loss_mode=mine"
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, mode, named],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is ("my_losses" in modules), done.stderr
    assert ("mine" in done.stderr) is (done.returncode != 0)


def test_a_failure_of_wandb_is_named_as_one_with_what_to_do(tmp_path):
    last = 'Post "http://localhost:9/graphql": connection refused'
    failed = CommError(f"Failed to get resume status\nwhile retrying: {last}")
    # As it comes out of a worker of Ray.
    error = RayTaskError("run", f"traceback\n{failed}", failed).as_instanceof_cause()
    said = cause(error, tmp_path)
    assert said.startswith(f"W&B could not be used (last error: while retrying: {last})")
    assert "WANDB_MODE=offline" in said
    assert cause(ValueError("one\ntwo"), tmp_path) == "two"


def test_a_full_disk_is_named_whatever_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=4096))
    assert cause(OSError("unexpected pos"), tmp_path) == (
        f"the disk of {tmp_path} is full (last error: unexpected pos)"
    )
