"""Show one line per step on the terminal, and send the stack's own output to a log file."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from recipe.base.errors import UserError
from recipe.base.files import Record
from recipe.run.journal import Journal

POLL_SECONDS = 0.5
# Shown on a step's line if a response could not be marked correct or incorrect.
UNREAD = {
    "reward/no_answer": "no answer",
    "reward/parse_error": "unreadable",
    "reward/timeout": "timed out",
}


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Send this process's output, and what Ray forwards to it, into `log`.

    Yields:
        The terminal, for lines that a person should still see.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab") as file, os.fdopen(os.dup(1), "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield terminal
        finally:
            # On a full disk the end of the log is lost.
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


class Progress:
    """Follow a run's journal while verl logs, and print a line for each record."""

    def __init__(self, journal: Journal, num_steps: int, terminal: TextIO) -> None:
        """Follow a run of `num_steps` steps whose records appear in `journal`."""
        self.journal, self.num_steps, self.terminal = journal, num_steps, terminal
        self.started = time.monotonic()
        self.startup_seconds: float | None = None
        self.failure: Exception | None = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Progress":
        """Start to follow."""
        self.terminal.write("Starting Ray, the FSDP actor and vLLM (about a minute).\n")
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Print the remaining records and stop to follow.

        Raises:
            UserError: the records could not be saved, so the run was stopped.
        """
        self.stop.set()
        self.thread.join()
        if self.failure:
            raise UserError(
                f"the metrics cannot be saved in {self.journal.metrics}: {self.failure}. Correct "
                f"that and give the same command again. It resumes from the last complete "
                f"checkpoint."
            ) from self.failure

    def _follow(self) -> None:
        last = False
        try:
            while not last:
                last = self.stop.wait(POLL_SECONDS)
                for record in self.journal.new_records():
                    self._show(record)
        except (OSError, ValueError) as error:
            self.failure = error
            # Without its metrics a run is worth nothing, so it stops here.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _show(self, record: Record) -> None:
        try:
            line = self._line(record["step"], record["data"])
        except (KeyError, TypeError) as error:
            line = f"step {record['step']}  cannot be shown: {error!r}"
        # The terminal may be closed.
        with suppress(OSError):
            self.terminal.write(line + "\n")

    def _line(self, step: int, data: dict[str, float]) -> str:
        if self.startup_seconds is None:
            self.startup_seconds = time.monotonic() - self.started
            self.first_step, self.training_since = step, time.monotonic()
        parts = [f"step {step:>{len(str(self.num_steps))}}/{self.num_steps}"]
        if "reward/correct" in data:
            parts.append(
                f"reward {data['critic/rewards/mean']:+.2f}, {data['reward/correct']:4.0%} correct"
            )
            lengths = (
                f"{data.get(f'reward/length_{verdict}', 0):.0f}"
                for verdict in ("correct", "incorrect")
            )
            parts.append("length correct/incorrect " + "/".join(lengths))
            parts += [
                f"{data[key]:.0%} {words}"
                for key, words in UNREAD.items()
                if data.get(key, 0.0) > 0
            ]
            parts.append(f"{data['timing_s/step']:.1f} s")
            done = step - self.first_step
            if done > 0:
                pace = (time.monotonic() - self.training_since) / done
                parts.append(f"{clock(pace * (self.num_steps - step))} left")
        held_out = held_out_accuracy(data)
        if held_out is not None:
            parts.append(f"held-out accuracy {held_out:.1%}")
        return "  ".join(parts)


def held_out_accuracy(data: dict[str, float]) -> float | None:
    """Return the share of correct responses to validation prompts, averaged over data sources."""
    values = [
        value for key, value in data.items() if key.startswith("val-core/") and "/acc/mean@" in key
    ]
    return sum(values) / len(values) if values else None


def held_out_ends(
    records: Sequence[tuple[int, dict[str, float]]],
) -> tuple[float | None, float | None]:
    """Return the first and last held-out accuracy; a run that validated once has no last one."""
    found = [x for _, data in records if (x := held_out_accuracy(data)) is not None]
    return (found or [None])[0], found[-1] if len(found) > 1 else None


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, M:SS."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
