"""Kill runs at random moments, start them again, and compare them with one that was never stopped.

    python -m benchmarks.kill_campaign --kills 20             # about 30 minutes on 2 cores
    python -m benchmarks.kill_campaign --kills 5 --ranks 2
    python -m benchmarks.kill_campaign --into docs/resume.md  # the summary of what is there

Each run is the small demo with a checkpoint every second step. A run that was killed is started
again, and killed again, until it finishes; then the next run begins. Kills come in turns of five,
one in each phase: before the first step, in a step, in a checkpoint, in a validation, in the
report. The seed draws their order, the moments, and whether the driver dies or all processes of the
run. Then come a disk that fills up and W&B without a server (benchmarks/kill_campaign/cases.py).

What happens goes to OUT/ranks-N.jsonl at once, and a campaign that was stopped goes on from there.
"""

import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kill_campaign.cases import CASES, meet
from benchmarks.kill_campaign.moments import (
    ALL,
    PHASES,
    START,
    STEPS,
    Kill,
    draw,
    kill,
    look,
    step_hit,
    usual_seconds,
)
from benchmarks.kill_campaign.run import Run
from benchmarks.timing import SEED
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.files import Record, read_lines, write_lines
from recipe.base.paths import ROOT
from recipe.base.progress import progress
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.run.processes import alone, end

RESULTS = Path(__file__).parents[1] / "results" / "kill_campaign"
# Between two looks at a run's files: a checkpoint of the demo is written in 15 ms.
POLL_SECONDS = 0.002
HANG_SECONDS = 900.0


class Campaign:
    """Hold what has happened, in the file, and the run that is under way."""

    def __init__(self, path: Path, runs: Path, ranks: int, seed: int) -> None:
        """Begin a campaign, or go on with that in `path`.

        Raises:
            UserError: `path` holds a campaign with another seed or of another commit.
        """
        self.path, self.runs, self.ranks, self.seed = path, runs, ranks, seed
        self.events = read_lines(path) if path.exists() else []
        self.seen: set[psutil.Process] = set()
        made = {"seed": seed, "ranks": ranks, "steps": STEPS}
        made |= provenance("benchmarks.kill_campaign")
        if not self.events:
            shutil.rmtree(runs, ignore_errors=True)
            self.add("campaign", **made)
        # Results that are committed and grow again make the clone dirty by themselves.
        clean = [
            (one["seed"], (one["commit"] or "").removesuffix("-dirty"))
            for one in (self.events[0], made)
        ]
        if clean[0] != clean[1]:
            raise UserError(
                f"{path} holds a campaign with seed {clean[0][0]} of commit {clean[0][1]}, and "
                f"this one has seed {clean[1][0]} and commit {clean[1][1]}. Remove that file, or "
                f"name another folder with --out."
            )

    def add(self, event: str, **found: Any) -> None:
        """Keep an event."""
        self.events.append({"event": event, **found})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(self.path, self.events)

    def of(self, event: str) -> list[Record]:
        """Return the events of a kind."""
        return [one for one in self.events if one["event"] == event]

    @property
    def run(self) -> int:
        """Return the number of the run that is under way or comes next, from 1."""
        return len(self.of("end")) + 1

    def train_references(self) -> None:
        """Train the run that is never stopped, and once more: what differs without a kill."""
        self.reference = self.unkilled("reference").folder
        self.seconds = usual_seconds(self.reference)
        again = self.unkilled("again")
        if not self.of("again"):
            self.add("again", **again.judged(0, self.reference))

    def unkilled(self, name: str) -> Run:
        """Return a finished run that was never stopped; train it unless it is there.

        Raises:
            UserError: it failed.
        """
        run = Run(self.runs / name, self.ranks)
        if not (run.folder / "summary.json").exists():
            shutil.rmtree(run.outputs, ignore_errors=True)
            print("Training a run that is never stopped (about a minute).", flush=True)
            if run.trained():
                raise UserError(
                    f"a run that nobody killed failed: {run.said()} Correct that, and give the "
                    f"same command again."
                )
        return run

    def make_kills(self, number: int) -> None:
        """Make the kills up to `number`, and let the last run finish."""
        done = len(self.of("kill"))
        with progress(total=number, initial=done, desc="kills", unit="kill") as bar:
            while done < number:
                if self.attempt(draw(self.seed, done + 1, self.run)):
                    done += 1
                    bar.update()
        while any(one["run"] == self.run for one in self.of("kill")):
            self.attempt(None)

    def attempt(self, plan: Kill | None) -> bool:
        """Start the run, and kill it as planned; return False if it came to its end.

        Raises:
            UserError: the run failed, and nobody had killed it.
        """
        run, since = Run(self.runs / f"run-{self.run}", self.ranks), time.time()
        begun, step, moment = False, None, math.inf
        with run.started() as process:
            while process.poll() is None:
                now, state = time.time(), look(run.folder, since)
                if state.after is not None and not begun:
                    begun = True
                    self.add("start", run=self.run, after_step=state.after)
                if plan and step is None:
                    step = step_hit(plan.phase, state)
                    if step is not None:
                        moment = now + plan.share * self.seconds[plan.phase]
                if plan and now >= moment:
                    self.seen |= set(kill(process.pid, plan.victims))
                    process.wait()
                    found = {"step": state.after if plan.phase == START else step}
                    self.add("kill", run=self.run, **plan._asdict(), **found)
                    return True
                if now > since + HANG_SECONDS:
                    kill(process.pid, ALL)
                time.sleep(POLL_SECONDS)
        self.judge(run, process.returncode)
        return False

    def judge(self, run: Run, code: int) -> None:
        """Compare the run that has ended with the reference, and end what it left."""
        found = run.judged(code, self.reference)
        if code and self.run not in {one["run"] for one in self.of("kill")}:
            raise UserError(
                f"a run failed that nobody had killed: {found['failed']} Correct that, and give "
                f"the same command again."
            )
        left = [process for process in self.seen if process.is_running()]
        self.add("end", run=self.run, left=len(left), **found)
        end(left)
        self.seen.clear()

    def meet_cases(self) -> None:
        """Meet the troubles that are left; the first two of them are enough for several ranks."""
        for number in range(len(self.of("case")), len(CASES) if self.ranks == 1 else 2):
            print(f"{CASES[number]} (some minutes)", flush=True)
            run = Run(self.runs / f"case-{number + 1}", self.ranks)
            shutil.rmtree(run.outputs, ignore_errors=True)
            found = meet(number, run, self.reference, self.seed)
            self.add("case", case=CASES[number], **found)


def kill_rows(events: Sequence[Record]) -> list[Record]:
    """Return each kill of a campaign with what came of it.

    Keys are added to those of the event: `survived` (the run finished, with each step once; None
    while it goes on), `lost` (steps trained again, with that in which it was killed; None if
    the run never went on), and the `metrics` and `weights` of `compare_runs`.
    """
    rows = []
    for place, one in enumerate(events):
        if one["event"] != "kill":
            continue
        later = [event for event in events[place:] if event.get("run") == one["run"]]
        after = next((x["after_step"] for x in later if x["event"] == "start"), None)
        ended = next((x for x in later if x["event"] == "end"), None)
        # Killed before it had opened its folder, a start had trained nothing.
        step = after if one["step"] is None else one["step"]
        rows.append(
            {
                **one,
                "survived": ended and is_whole(ended),
                "lost": None if after is None else max(0, step - after),
                "metrics": ended and ended.get("metrics"),
                "weights": ended and ended.get("weights"),
            }
        )
    return rows


def is_whole(ended: Record) -> bool:
    """Return whether a run finished with each of its steps once."""
    return not (ended["failed"] or ended["missing"] or ended["doubled"])


def kill_table(events: Sequence[Record]) -> list[str]:
    """Return a table with a row for each kill."""
    head = ("kill", "phase", "killed", "survived", "steps lost", "metrics differ", "weights differ")
    rows = [
        (
            str(row["number"]),
            row["phase"],
            row["victims"],
            {True: "yes", False: "no", None: "-"}[row["survived"]],
            *map(cell, (row["lost"], row["metrics"], row["weights"])),
        )
        for row in kill_rows(events)
    ]
    return markdown_table(head, rows)


def summary(campaigns: Sequence[Sequence[Record]]) -> list[str]:
    """Return the tables of all campaigns: kills by phase, and the troubles."""
    by_phase, troubles, made = [], [], []
    for events in campaigns:
        ranks, rows = str(events[0]["ranks"]), kill_rows(events)
        for phase in (*PHASES, "all"):
            if some := [row for row in rows if phase in (row["phase"], "all")]:
                by_phase.append((ranks, phase, *summarised(some)))
        troubles += [(ranks, *trouble(one)) for one in events if one["event"] == "case"]
        left = sum(one["left"] for one in events if one["event"] == "end")
        noise = [(one["metrics"], one["weights"]) for one in events if one["event"] == "again"]
        made += [
            f"{ranks} rank(s): seed {events[0]['seed']}, commit {events[0]['commit']}. Two runs "
            f"that nobody killed differ by {cell(metrics)} in metrics and {cell(weights)} in "
            f"weights. Processes that outlived a killed run's last start: {left}."
            for metrics, weights in noise
        ]
    head = ("ranks", "phase", "kills", "survived", "steps lost: median", "most")
    head += ("metrics differ by", "weights differ by")
    case = ("ranks", "trouble", "seconds until it ended", "then", "metrics differ by", "it said")
    return [*markdown_table(head, by_phase), "", *markdown_table(case, troubles), "", *made]


def summarised(rows: Sequence[Record]) -> tuple[str, ...]:
    """Return the cells of some kills: how many, survived, lost steps, largest differences."""
    survived = sum(row["survived"] is True for row in rows)
    lost = [row["lost"] for row in rows if row["lost"] is not None]
    most = [
        max((row[key] for row in rows if row[key] is not None), default=None)
        for key in ("metrics", "weights")
    ]
    steps = (statistics.median(lost), max(lost)) if lost else (None, None)
    return str(len(rows)), str(survived), *map(cell, (*steps, *most))


def trouble(one: Record) -> tuple[str, ...]:
    """Return the cells of a trouble."""
    if "left_out" in one:
        return one["case"], "-", f"left out: {one['left_out']}", "-", "-"
    went_on = "finished" if is_whole(one) else f"failed: {one['failed']}"
    # The last error of a library changes with its version.
    said = one["said"].partition(" (last error")[0]
    return one["case"], cell(one["seconds"]), went_on, cell(one.get("metrics")), said


def cell(value: float | None) -> str:
    """Return a number in a cell, a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def main() -> None:
    """Make kills if asked to, and show what is there."""
    parser = command_parser("benchmarks.kill_campaign", __doc__)
    parser.add_argument("--kills", type=int, help="how many; without it, only show the results")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    add_into(parser, "kills")
    given = parser.parse_args()
    for name in ("kills", "ranks"):
        if (value := getattr(given, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}. Give a number from 1 on.")
    with errors_reported(stopped="stopped; the same command goes on from here"):
        if given.kills is not None:
            measure(given.kills, given.ranks, given.seed, given.out)
        found = [read_lines(path) for path in sorted(given.out.glob("ranks-*.jsonl"))]
        if not found:
            raise UserError(f"{given.out} has no results. Make some with --kills 20.")
        show_table(summary(found), "kills", given.into)


def measure(kills: int, ranks: int, seed: int, out: Path) -> None:
    """Make a campaign, or what is left of it, and print its kills.

    Raises:
        UserError: the file of the results holds another campaign, or a run failed by itself.
    """
    runs = ROOT / "outputs" / "kill_campaign" / f"ranks-{ranks}"
    advice = "Wait for it or stop it."
    with alone(runs.with_name(f"{runs.name}.lock"), "a campaign of as many ranks", advice):
        campaign = Campaign(out / f"ranks-{ranks}.jsonl", runs, ranks, seed)
        campaign.train_references()
        campaign.make_kills(kills)
        campaign.meet_cases()
        print("\n".join(kill_table(campaign.events)))
        print(f"wrote {campaign.path}")


if __name__ == "__main__":
    main()
