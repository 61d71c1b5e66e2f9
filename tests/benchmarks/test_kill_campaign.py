import json
import math
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks.kill_campaign import __main__ as kill_campaign
from benchmarks.kill_campaign.__main__ import Campaign, kill_rows, kill_table, main, summary
from benchmarks.kill_campaign.moments import (
    ALL,
    CHECKPOINT,
    DRIVER,
    PHASES,
    REPORT,
    START,
    STEP,
    STEPS,
    VALIDATION,
    State,
    draw,
    family,
    kill,
    look,
    step_hit,
)
from benchmarks.small_run import compare_metrics
from recipe.base.errors import UserError
from recipe.base.files import read_lines, write_lines

WHOLE = {"failed": None, "missing": [], "doubled": [], "metrics": 0.0, "weights": 0.0, "left": 0}


def test_every_turn_of_five_has_each_phase_once_and_both_victims():
    plans = [draw(7, number, 1) for number in range(1, 21)]
    assert plans == [draw(7, number, 1) for number in range(1, 21)]
    assert plans != [draw(8, number, 1) for number in range(1, 21)]
    for begin in range(0, 20, 5):
        turn = plans[begin : begin + 5]
        assert {plan.phase for plan in turn} == set(PHASES)
        assert turn[-1].phase == REPORT
        assert {plan.victims for plan in turn} == {DRIVER, ALL}
    for phase in PHASES:
        assert {plan.victims for plan in plans if plan.phase == phase} == {DRIVER, ALL}
    assert all(0 <= plan.share < 1 for plan in plans)
    assert len({plan.share for plan in plans}) == 20


def test_a_kill_that_came_too_late_is_tried_at_another_moment_of_the_same_phase():
    one, other = draw(0, 3, 1), draw(0, 3, 2)
    assert one[:3] == other[:3]
    assert one.share != other.share


@pytest.mark.parametrize(
    ("state", "hit"),
    [
        (State(), {START: 0}),
        # Begun anew: it validates first, then trains step 1.
        (State(after=0), {START: 0}),
        (State(after=0, recorded=0), {START: 0, STEP: 1}),
        (State(after=0, recorded=1, begun=2), {START: 0, STEP: 2, CHECKPOINT: 2}),
        # A checkpoint is written to its end before the validation begins, where there is one.
        (State(0, 1, 2, 2), {START: 0, STEP: 2, CHECKPOINT: 2}),
        (State(0, 3, 4, 4), {START: 0, STEP: 4, CHECKPOINT: 4, VALIDATION: 4}),
        (State(0, 4, 4, 4), {START: 0, STEP: 5}),
        # Gone on after step 4, it has records and checkpoints that it did not write.
        (State(after=4, recorded=4, begun=4), {START: 4}),
        (State(after=4, recorded=5, begun=4), {START: 4, STEP: 6}),
        (State(0, STEPS - 1, STEPS, STEPS), {START: 0, STEP: 12, CHECKPOINT: 12, VALIDATION: 12}),
        (State(0, STEPS, STEPS, STEPS), {START: 0, REPORT: 12}),
        # Killed in its report, it goes on after its last step.
        (State(STEPS, STEPS, STEPS), {START: 12}),
    ],
)
def test_a_phase_is_known_by_the_files(state, hit):
    found = {phase: step_hit(phase, state) for phase in PHASES}
    assert {phase: step for phase, step in found.items() if step is not None} == hit


def test_what_an_earlier_start_has_written_is_no_state_of_this_one(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "global_step_4"
    checkpoint.mkdir(parents=True)
    tracker = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.write_text("4")
    write_lines(tmp_path / "starts.jsonl", [{"after_step": 0}])
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 4)
    long_ago, now = time.time() - 60, time.time() + 60
    assert look(tmp_path / "none", long_ago) == State()
    assert look(tmp_path, long_ago) == State(after=0, recorded=3, begun=4, saved=4)
    assert look(tmp_path, now) == State()


@pytest.mark.parametrize(("victims", "left"), [(DRIVER, 1), (ALL, 0)])
def test_a_kill_ends_the_driver_or_all_its_processes(victims, left):
    script = "import subprocess; subprocess.run(['sleep', '600'])"
    parent = subprocess.Popen([sys.executable, "-c", script])
    while len(family(parent.pid)) < 2:
        time.sleep(0.01)
    had = kill(parent.pid, victims)
    parent.wait()
    _, alive = psutil.wait_procs(had[1:], timeout=10 if victims == ALL else 0)
    for process in alive:
        process.kill()
    assert (len(had), len(alive)) == (2, left)
    assert family(parent.pid) == []


def records(*steps, norm=1.0):
    return [(step, {"actor/grad_norm": norm, "timing_s/step": time.time()}) for step in steps]


def test_a_comparison_finds_what_is_missing_doubled_or_changed():
    same = compare_metrics(records(0, 1, 2), records(0, 1, 2))
    assert same == {"missing": [], "doubled": [], "metrics": 0.0}
    assert compare_metrics(records(0, 2), records(0, 1, 2))["missing"] == [1]
    assert compare_metrics(records(0, 1, 1, 2), records(0, 1, 2))["doubled"] == [1]
    changed = compare_metrics(records(0, 1) + records(2, norm=1.25), records(0, 1, 2))
    assert changed == {"missing": [], "doubled": [], "metrics": 0.25}
    # The first of a doubled step counts as much as the second.
    twice = records(0) + records(1, norm=3.0) + records(1)
    assert compare_metrics(twice, records(0, 1))["metrics"] == 2.0
    assert compare_metrics([(0, {})], records(0))["metrics"] == math.inf
    undefined = records(0, norm=math.nan)
    assert compare_metrics(undefined, undefined)["metrics"] == 0.0
    assert compare_metrics(undefined, records(0))["metrics"] == math.inf


def event(kind, run, **found):
    return {"event": kind, "run": run, **found}


def killed(number, run, step, phase=STEP):
    return event("kill", run, number=number, phase=phase, victims=ALL, share=0.5, step=step)


EVENTS = [
    {"event": "campaign", "seed": 0, "ranks": 1, "steps": STEPS, "commit": "abc"},
    {"event": "again", "metrics": 0.25, "weights": 0.125},
    event("start", 1, after_step=0),
    killed(1, 1, 4),
    # Killed before it had opened its folder.
    killed(2, 1, None, START),
    event("start", 1, after_step=2),
    killed(3, 1, 3),
    event("start", 1, after_step=2),
    event("end", 1, **WHOLE | {"metrics": 0.5, "left": 2}),
    event("start", 2, after_step=0),
    killed(4, 2, 7),
    event("end", 2, failed="exit code 1: error", left=0),
    event("start", 3, after_step=0),
    killed(5, 3, 12, REPORT),
]


def test_lost_steps_are_those_that_the_next_start_trains_again():
    rows = kill_rows(EVENTS)
    assert [row["lost"] for row in rows] == [2, 0, 1, None, None]
    assert [row["survived"] for row in rows] == [True, True, True, False, None]
    assert [row["metrics"] for row in rows] == [0.5, 0.5, 0.5, None, None]


@pytest.mark.parametrize("fault", [{"missing": [3]}, {"doubled": [3]}])
def test_a_run_with_a_missing_or_doubled_step_has_not_survived(fault):
    rows = kill_rows([*EVENTS[:8], event("end", 1, **WHOLE | fault)])
    assert [row["survived"] for row in rows] == [False] * 3


def test_the_tables_have_a_row_for_each_kill_and_each_phase():
    assert len(kill_table(EVENTS)) == 2 + 5
    case = {"event": "case", "case": "full disk", "code": 1, "seconds": 40, "said": "no room"}
    out = {"event": "case", "case": "full disk", "left_out": "no root"}
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in summary([[*EVENTS, case | WHOLE, out]])
    ]
    assert ["1", "step", "3", "2", "1.5", "2", "0.5", "0"] in cells
    assert ["1", "all", "5", "3", "1", "2", "0.5", "0"] in cells
    assert ["1", "full disk", "40", "finished", "0", "no room"] in cells
    assert ["1", "full disk", "-", "left out: no root", "-", "-"] in cells
    [made] = summary([EVENTS])[-1:]
    assert "differ by 0.25 in metrics and 0.125 in weights" in made
    assert made.endswith("last start: 2.")


class Stopped(Exception):
    """Stands for Ctrl-C."""


def test_a_campaign_that_was_stopped_makes_only_the_kills_that_are_left(tmp_path, monkeypatch):
    path, made = tmp_path / "ranks-1.jsonl", []

    def attempt(campaign, plan):
        if plan is None:
            campaign.add("end", run=campaign.run, **WHOLE)
            return False
        if len(made) == 2 and len(campaign.of("end")) == 0:
            made.append(None)
            raise Stopped
        made.append(plan.number)
        campaign.add("kill", run=campaign.run, **plan._asdict())
        return True

    monkeypatch.setattr(Campaign, "attempt", attempt)
    with pytest.raises(Stopped):
        Campaign(path, tmp_path / "runs", 1, 0).make_kills(4)
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    campaign = Campaign(path, tmp_path / "runs", 1, 0)
    campaign.make_kills(4)
    assert made == [1, 2, None, 3, 4]
    assert (tmp_path / "runs" / "run-1").exists()
    assert campaign.events == read_lines(path)
    assert [one["event"] for one in campaign.events] == ["campaign", *["kill"] * 4, "end"]
    Campaign(path, tmp_path / "runs", 1, 0).make_kills(4)
    assert len(made) == 5


def test_results_of_another_seed_or_commit_are_never_mixed(tmp_path):
    path = tmp_path / "ranks-1.jsonl"
    Campaign(path, tmp_path / "runs", 1, 0)
    with pytest.raises(UserError, match=r"with seed 0 of commit .* has seed 1 and"):
        Campaign(path, tmp_path / "runs", 1, 1)
    [made] = read_lines(path)
    write_lines(path, [made | {"commit": "0123456789ab"}])
    with pytest.raises(UserError, match="commit 0123456789ab"):
        Campaign(path, tmp_path / "runs", 1, 0)


def test_a_run_that_failed_without_a_kill_stops_the_campaign(tmp_path, monkeypatch):
    campaign = Campaign(tmp_path / "ranks-1.jsonl", tmp_path / "runs", 1, 0)
    campaign.seconds, campaign.reference = dict.fromkeys(PHASES, 1.0), tmp_path

    @contextmanager
    def started(run, **environment):
        run.outputs.mkdir(parents=True)
        (run.outputs / "said.log").write_text("error: no room\n")
        yield subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(kill_campaign.Run, "started", started)
    with pytest.raises(UserError, match="nobody had killed: exit code 1: error: no room"):
        campaign.attempt(draw(0, 1, 1)._replace(phase=REPORT))
    assert campaign.of("end") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kills", "0"], "--kills is 0. Give a number from 1 on."),
        (["--kills", "3", "--ranks", "-1"], "--ranks is -1."),
        (["--kills", "many"], "invalid int value"),
        ([], "has no results. Make some with --kills 20."),
    ],
)
def test_a_wrong_input_is_refused_in_words(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kill_campaign", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert said in capsys.readouterr().err + str(stop.value.code)
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
