"""Draw when a run is killed, and find that moment by the files that the run writes."""

import json
import random
import statistics
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from recipe.base.files import read_lines
from recipe.run.folder import read_metrics
from recipe.run.journal import step_of

STEPS, SAVE_FREQ, TEST_FREQ = 12, 2, 4
# A run that is killed in its report has trained, so that phase ends each turn.
START, STEP, CHECKPOINT, VALIDATION, REPORT = PHASES = (
    "start",
    "step",
    "checkpoint",
    "validation",
    "report",
)
DRIVER, ALL = "driver", "all processes"


class Kill(NamedTuple):
    """Hold one planned kill."""

    number: int
    phase: str
    victims: str
    share: float
    """Give the part of the phase's usual duration that passes before the kill, from 0 to 1."""


def draw(seed: int, number: int, run: int) -> Kill:
    """Return kill `number` (from 1) of a campaign; each turn of five kills has every phase once.

    Args:
        seed: of the campaign.
        number: of the kill.
        run: number of the run to be killed. A run that ends too early leaves the kill to the next
            run, at another moment of the same phase.
    """
    turn, place = divmod(number - 1, len(PHASES))
    order = list(PHASES[:-1])
    random.Random(f"{seed} {turn}").shuffle(order)
    phase = [*order, REPORT][place]
    # Both victims in each turn, and in each phase after two turns.
    first = random.Random(f"{seed}").randrange(2)
    victims = (DRIVER, ALL)[(first + turn + PHASES.index(phase)) % 2]
    return Kill(number, phase, victims, random.Random(f"{seed} {number} {run}").random())


def usual_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds that each phase took in the finished run in `folder`."""
    trained = [data for step, data in read_metrics(folder) if step]

    def median(key: str) -> float:
        return statistics.median(data[key] for data in trained if key in data)

    metrics, summary = folder / "metrics.jsonl", folder / "summary.json"
    return {
        START: json.loads(summary.read_text())["startup_seconds"],
        STEP: median("timing_s/step"),
        CHECKPOINT: median("timing_s/save_checkpoint"),
        VALIDATION: median("timing_s/testing"),
        REPORT: summary.stat().st_mtime - metrics.stat().st_mtime,
    }


class State(NamedTuple):
    """Hold what a start of a run has written; -1 is nothing."""

    after: int | None = None
    """The step after which it goes on; None before it has opened its folder."""
    recorded: int = -1
    """The last step in the metrics."""
    begun: int = -1
    """The last checkpoint of which there is a part."""
    saved: int = -1
    """The last checkpoint that this start has written to its end."""


def look(folder: Path, since: float) -> State:
    """Return the state of the run in `folder`, whose last start was at the time `since`."""
    starts, checkpoints = folder / "starts.jsonl", folder / "checkpoints"
    tracker = checkpoints / "latest_checkpointed_iteration.txt"
    # The folder appears late, and may just be moving aside.
    with suppress(FileNotFoundError):
        if starts.stat().st_mtime > since:
            new = tracker.exists() and tracker.stat().st_mtime > since
            return State(
                after=read_lines(starts)[-1]["after_step"],
                # One line for each step from 0 on.
                recorded=(folder / "metrics.jsonl").read_bytes().count(b"\n") - 1,
                begun=max(map(step_of, checkpoints.glob("global_step_*")), default=-1),
                saved=int((new and tracker.read_text()) or -1),
            )
    return State()


def step_hit(phase: str, state: State) -> int | None:
    """Return the step in whose `phase` the run is; None if it is in another phase."""
    after, recorded, begun, saved = state
    if phase == START:
        return after or 0
    if after is None:
        return None
    # A start that goes on has old records; one that begins anew records a step 0.
    trains = after < recorded < STEPS or recorded == after == 0
    validates = saved > recorded and (saved % TEST_FREQ == 0 or saved == STEPS)
    return {
        STEP: recorded + 1 if trains else None,
        CHECKPOINT: begun if begun > max(after, recorded) else None,
        VALIDATION: saved if validates else None,
        REPORT: recorded if after < recorded == STEPS else None,
    }[phase]


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants, none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def kill(pid: int, victims: str) -> list[psutil.Process]:
    """End a run by SIGKILL, and return the processes that it had.

    Args:
        pid: of its driver.
        victims: `DRIVER`, or `ALL` as on a machine that loses power.
    """
    if victims == ALL:
        # What is suspended starts nothing that the second look would miss.
        each(family(pid), psutil.Process.suspend)
    had = family(pid)
    each(had if victims == ALL else had[:1], psutil.Process.kill)
    return had


def each(processes, act) -> None:
    """Do `act` to each process that has not ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            act(process)
