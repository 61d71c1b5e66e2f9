import io
import json
import os
import subprocess
import time

import pytest

from recipe.base.errors import UserError
from recipe.run.console import Progress, clock, held_out_accuracy, held_out_ends, output_to
from recipe.run.journal import Journal

VALIDATION = {"val-core/math_dapo/acc/mean@1": 0.25, "val-aux/math_dapo/score/mean@1": -0.5}
STEP = {
    "critic/rewards/mean": -0.25,
    "reward/correct": 0.375,
    "reward/length_correct": 20.4,
    "reward/length_incorrect": 41.0,
    "timing_s/step": 2.51,
}


def test_one_line_a_step_as_the_metrics_appear(tmp_path):
    journal, terminal = Journal(tmp_path), io.StringIO()
    with Progress(journal, 10, terminal) as progress, journal.verl_metrics.open("w") as file:
        for step, data in enumerate((VALIDATION, STEP, STEP | VALIDATION)):
            line = json.dumps({"step": step, "data": data}) + "\n"
            # A line that is half written is no record yet.
            file.write(line[:9])
            file.flush()
            time.sleep(0.6)
            file.write(line[9:])
            file.flush()
    lines = terminal.getvalue().splitlines()[1:]
    assert len(lines) == 3
    assert "held-out accuracy 25.0%" in lines[0]
    assert lines[1].startswith(
        "step  1/10  reward -0.25,  38% correct  length correct/incorrect 20/41  2.5 s"
    )
    assert lines[1].endswith("left")
    assert "held-out" in lines[2]
    assert progress.startup_seconds > 0


def test_output_of_the_stack_goes_to_the_log_and_the_terminal_stays(tmp_path, capfd):
    with output_to(tmp_path / "run.log") as terminal:
        os.write(1, b"raw\n")
        subprocess.run(["sh", "-c", "echo child >&2"], check=True)
        terminal.write("seen\n")
    print("after")
    assert capfd.readouterr().out == "seen\nafter\n"
    assert (tmp_path / "run.log").read_text() == "raw\nchild\n"


def test_held_out_accuracy_is_averaged_over_sources():
    two = VALIDATION | {"val-core/aime/acc/mean@8": 0.75}
    assert held_out_accuracy(two) == 0.5
    assert held_out_accuracy(STEP) is None


def test_a_run_that_validated_once_has_no_end():
    look = {"val-core/x/acc/mean@1": 0.25}
    assert held_out_ends([(1, STEP)]) == (None, None)
    assert held_out_ends([(0, look), (1, STEP)]) == (0.25, None)
    assert held_out_ends([(0, look), (1, {"val-core/x/acc/mean@1": 0.5})]) == (0.25, 0.5)


def test_time_is_shown_in_minutes_and_seconds():
    assert clock(125.4) == "2:05"


def test_nobody_looking_and_a_strange_record_stop_nothing(tmp_path):
    class Gone(io.StringIO):
        def write(self, text):
            if text.startswith("step"):
                raise BrokenPipeError(32, "Broken pipe")
            return super().write(text)

    journal = Journal(tmp_path)
    with Progress(journal, 10, Gone()):
        records = [{"step": 0, "data": STEP}, {"step": 1, "data": {"reward/correct": 0.5}}]
        journal.verl_metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(journal.metrics.read_text().splitlines()) == 2


def test_metrics_that_cannot_be_saved_stop_the_run(tmp_path):
    journal = Journal(tmp_path)
    journal.metrics.mkdir()
    with pytest.raises(UserError, match=r"metrics cannot be saved in .*metrics\.jsonl"):
        with Progress(journal, 10, io.StringIO()):
            journal.verl_metrics.write_text(json.dumps({"step": 0, "data": STEP}) + "\n")
            time.sleep(20)
            raise AssertionError("the run was not stopped")
