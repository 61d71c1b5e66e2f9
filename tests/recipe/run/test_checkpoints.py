import pytest

from recipe.base.errors import UserError
from recipe.run.checkpoints import export, find_checkpoint
from recipe.run.journal import seal


@pytest.fixture
def run(tmp_path):
    """A run with a complete checkpoint and a later one that was cut off."""
    (tmp_path / "config.yaml").touch()
    for step in (2, 4):
        actor = tmp_path / "checkpoints" / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        (actor / "fsdp_config.json").write_text("{}")
    seal(tmp_path / "checkpoints" / "global_step_2", "")
    return tmp_path


def test_the_last_complete_checkpoint_of_a_run_is_meant_or_the_one_that_is_named(run):
    assert find_checkpoint(run).name == "global_step_2"
    named = run / "checkpoints" / "global_step_4"
    assert find_checkpoint(named) == named


def test_what_is_no_run_or_has_no_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="neither the folder of a run"):
        find_checkpoint(run / "checkpoints")
    (run / "checkpoints" / "global_step_2" / "whole.json").unlink()
    with pytest.raises(UserError, match="no complete checkpoint"):
        find_checkpoint(run)


def test_a_merger_that_fails_leaves_nothing(run, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"verl's merger failed on .*global_step_2: OSError"):
        export(find_checkpoint(run), out, "scripts.export")
    assert not out.exists()
    assert not out.with_name("out.part").exists()
    out.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export(find_checkpoint(run), out, "scripts.export")
