import json

import pytest

from recipe.base.errors import UserError
from recipe.base.files import sha256_of_files
from recipe.run.journal import Journal, step_of

MADE_BY = {"commit": "abc", "command": "python -m recipe.main"}


def line(step):
    return json.dumps({"step": step, "data": {"loss": step / 7, "timing_s/step": 2.0}}) + "\n"


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def saved(journal, step):
    folder = journal.checkpoints / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True)
    (folder / "actor" / "model.pt").write_bytes(b"weights")
    (folder / "data.pt").write_bytes(b"order")
    return folder


@pytest.fixture
def again(tmp_path):
    """Open the journal as the next start of the run would; `data` is the hash of its files."""

    def open_journal(data="sha256_of_files", keep=None):
        return Journal(tmp_path, data, keep)

    return open_journal


@pytest.fixture
def killed(again):
    """Killed after 5 logged steps of which 2 and 4 were saved, while 6 was being saved."""
    journal = again()
    journal.begin(None, MADE_BY)
    for step in range(6):
        if step in (2, 4):
            saved(journal, step)
        with journal.verl_metrics.open("a") as file:
            file.write(line(step))
        assert [record["step"] for record in journal.new_records()] == [step]
    saved(journal, 6)
    return journal


def test_every_record_is_copied_once_and_only_when_it_is_complete(again):
    journal = again()
    journal.begin(None, MADE_BY)
    assert list(journal.new_records()) == []
    journal.verl_metrics.write_text(line(0) + line(1)[:9])
    assert [record["step"] for record in journal.new_records()] == [0]
    assert list(journal.new_records()) == []
    journal.verl_metrics.write_text(line(0) + line(1))
    assert [record["step"] for record in journal.new_records()] == [1]
    assert journal.metrics.read_text() == line(0) + line(1)


def test_a_checkpoint_is_complete_once_its_step_is_logged(killed):
    assert step_of(killed.last_complete()) == 4


@pytest.mark.parametrize("harm", ["lost", "cut"])
def test_a_checkpoint_that_lost_something_is_passed_over(killed, harm):
    file = killed.checkpoints / "global_step_4" / "actor" / "model.pt"
    file.unlink() if harm == "lost" else file.write_bytes(b"wei")
    assert step_of(killed.last_complete()) == 2


def test_a_seal_that_cannot_be_read_and_a_copy_are_passed_over(killed):
    (killed.checkpoints / "global_step_4" / "whole.json").write_text("")
    (killed.checkpoints / "global_step_3_old").mkdir()
    assert step_of(killed.last_complete()) == 2


def test_a_seal_does_not_outlive_what_it_sealed(killed, again):
    """What is written over a checkpoint that lost a file has the sizes of the old one."""
    (killed.checkpoints / "global_step_4" / "data.pt").unlink()
    journal = again()
    journal.begin(journal.last_complete(), MADE_BY)
    assert journal.begins_after == 2
    saved(journal, 4)  # and killed before the step was logged
    assert step_of(again().last_complete()) == 2


def test_the_last_checkpoints_stay_also_those_from_before_a_resume(killed, again):
    journal = again(keep=2)
    journal.begin(journal.last_complete(), MADE_BY)
    kept = []
    for step in (5, 6, 7):
        saved(journal, step)
        with journal.verl_metrics.open("a") as file:
            file.write(line(step))
        list(journal.new_records())
        kept.append(sorted(map(step_of, journal.checkpoints.iterdir())))
    assert kept == [[4, 5], [5, 6], [6, 7]]


def test_a_cut_off_start_is_forgotten(killed, again):
    with (killed.folder / "starts.jsonl").open("a") as file:
        file.write('{"after_')
    journal = again()
    journal.begin(journal.last_complete(), MADE_BY)
    assert [start["after_step"] for start in journal.starts()] == [0, 4]


def test_going_on_cuts_back_to_the_checkpoint(killed, again):
    killed.metrics.write_text(killed.metrics.read_text() + line(6)[:20])
    kept = killed.metrics.read_text().splitlines()[:5]
    journal = again()
    journal.begin(journal.last_complete(), MADE_BY)
    assert journal.begins_after == 4
    assert journal.metrics.read_text().splitlines() == kept
    assert journal.seconds_before == 10.0
    assert not (journal.checkpoints / "global_step_6").exists()
    assert (journal.checkpoints / "global_step_2").exists()
    assert journal.run_id == killed.run_id
    journal.verl_metrics.write_text(line(5) + line(6))
    saved(journal, 6)
    list(journal.new_records())
    assert steps(journal.metrics) == list(range(7))
    assert step_of(again().last_complete()) == 6
    assert [start["after_step"] for start in journal.starts()] == [0, 4]


def test_other_training_files_are_refused(killed, again):
    journal = again(data="other")
    with pytest.raises(UserError, match=r"training files have changed since .*global_step_4"):
        journal.begin(journal.last_complete(), MADE_BY)
    assert steps(journal.metrics) == list(range(6))


def test_the_digest_is_of_contents_in_order(tmp_path):
    one, other, copy = (tmp_path / name for name in "abc")
    for path, text in ((one, "1"), (other, "2"), (copy, "1")):
        path.write_text(text)
    assert sha256_of_files([one, other]) == sha256_of_files([copy, other])
    assert sha256_of_files([one, other]) != sha256_of_files([other, one])
