"""A pool of worker processes that can be killed, for work that may never end.

A caller's thread takes a worker, sends it one question and waits until the deadline; there is no
thread besides. Callers beyond the number of workers wait for one, which is the pool's
back-pressure, and that wait does not count against the deadline. A worker that overruns is killed
and replaced while the others go on.
"""

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from reward.errors import RewardError

# A worker that has answered so many questions is replaced: sympy's and the parser's caches grow.
QUESTIONS_PER_WORKER = 1000
# Asked before the first fork, so that every worker has the parser's tables warm, and to prove that
# the installed mathematics works; asked again when workers die.
KNOWN = (
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}", True),
    (r"(x+1)(x-12)", r"x^2 - 11x - 12", True),
    (r"\frac{n(n+1)}{2}", r"\frac{1}{2}n^2 + \frac{n}{2}", True),
    (r"\sin^2 \theta", r"1 - \cos^2 \theta", True),
    (r"x \ge 3", r"[3, \infty)", True),
    (r"y = 2x + 1", r"2x - y + 1 = 0", True),
    (r"e^{2}\ln 3", r"e^{3}\ln 2", False),
)

ATTEMPTS = 2
START_SECONDS = 120.0
# Where a worker finds this package, whatever the working directory.
ROOT = str(Path(__file__).parents[2])


class Reply(NamedTuple):
    """What became of a question: `same` if it was decided, else why not."""

    same: bool | None
    error: str = ""
    over_limit: bool = False


class _Worker:
    """One worker process, the connection to it, and the number of questions it has left."""

    def __init__(self, connection: Connection, process: int) -> None:
        self.connection, self.process = connection, process
        self.left = QUESTIONS_PER_WORKER

    def ask(self, answer: str, truth: str, deadline: float) -> Reply | None:
        """The reply, or None after `deadline` seconds.

        Raises:
            OSError, EOFError: the worker died.
        """
        self.left -= 1
        self.connection.send_bytes(json.dumps([answer, truth]).encode())
        if not self.connection.poll(deadline):
            return None
        reply = json.loads(self.connection.recv_bytes())
        return Reply(reply.get("same"), reply.get("error", ""), reply.get("limit", False))

    def kill(self) -> None:
        """End the process and wait until it is gone, with all the memory it had."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        gone = select.poll()  # select() takes no descriptor above 1023
        gone.register(self.process, select.POLLIN)
        gone.poll()
        os.close(self.process)
        self.connection.close()


class _Template:
    """The process that workers are forked from.

    Raises:
        OSError, EOFError: it could not be started, or it is gone.
    """

    def __init__(self, memory: int) -> None:
        self.control, theirs = socket.socketpair()
        self.errors = tempfile.TemporaryFile()
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "reward.math.worker",
                    str(theirs.fileno()),
                    str(memory),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self.errors,
                stderr=self.errors,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        self.control.settimeout(START_SECONDS)
        try:
            self._await()
        except (OSError, EOFError) as error:
            raise OSError(f"{error}; it said: {self.close()}") from error

    def _await(self) -> list[int]:
        """The descriptors that come with the template's next sign."""
        sign, descriptors, _, _ = socket.recv_fds(self.control, 1, 1)
        if not sign:
            raise EOFError("its template ended")
        return list(descriptors)

    def fork(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"+"], [theirs.fileno()])
        processes = self._await()
        if not processes:
            ours.close()
            raise OSError("its template could not fork, or no descriptor is left here")
        return _Worker(Connection(ours.detach()), processes[0])

    def close(self) -> str:
        """End the process, which goes when its socket is closed; the end of what it printed."""
        if self.errors.closed:
            return ""
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        self.process.kill()
        self.process.wait()
        with self.errors:
            self.errors.seek(0)
            return self.errors.read().decode(errors="replace").strip()[-500:]


class Pool:
    """Answers from worker processes, each within a deadline and a limit of memory.

    Args:
        workers: how many questions are worked on at once.
        deadline: seconds for one question.
        memory: bytes of address space for one worker.

    Threads may share a pool. Processes may not: one that was forked has to make its own.
    """

    def __init__(self, workers: int = 2, deadline: float = 5.0, memory: int = 1 << 30) -> None:
        self.workers, self.deadline, self.memory = workers, deadline, memory
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._template: _Template | None = None
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)

    def ask(self, answer: str, truth: str) -> Reply:
        """Whether two answers are the same, by symbolic mathematics.

        Raises:
            RewardError: no worker could be started, or workers die whatever they are asked.
        """
        if os.getpid() != self._owner:
            raise RewardError("this pool belongs to the process this one was forked from")
        worker = self._slots.get()
        try:
            for _ in range(ATTEMPTS):
                worker = worker or self._fork()
                try:
                    reply = worker.ask(answer, truth, self.deadline)
                except (OSError, EOFError):
                    worker = worker.kill()
                    continue
                if reply is None:
                    worker = worker.kill()
                    return Reply(None, f"not decided after {self.deadline:g} s", over_limit=True)
                if worker.left == 0 or reply.over_limit:
                    worker = worker.kill()
                return reply
            worker = self._fork()
            self._prove(worker)
            return Reply(None, "ended the process that read it", over_limit=True)
        except BaseException:
            # Its reply may still be on the way, and must not reach the next caller.
            worker = worker and worker.kill()
            raise
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """End the idle workers and the template; workers in use end with the template."""
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    if worker := self._slots.get_nowait():
                        worker.kill()
            if self._template:
                self._template.close()
            for _ in range(self.workers):  # whoever asks from now on is told
                self._slots.put(None)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fork(self) -> _Worker:
        """A new worker, from a new template if the old one is gone."""
        cause = None
        with self._lock:
            for _ in range(ATTEMPTS):
                if self._is_closed:
                    raise RewardError("this pool is closed")
                try:
                    self._template = self._template or _Template(self.memory)
                    return self._template.fork()
                except (OSError, EOFError) as error:
                    cause = error
                    if self._template:
                        self._template.close()
                    self._template = None
        raise RewardError(
            f"no process for symbolic mathematics can be started: {cause}. "
            "Look at free memory and at the installation of math-verify."
        ) from cause

    def _prove(self, worker: _Worker) -> None:
        """Check that a worker still knows what it knew when it started: then it was the answer.

        Raises:
            RewardError: it does not, so the machinery is at fault.
        """
        for answer, truth, expected in KNOWN:
            try:
                reply = worker.ask(answer, truth, START_SECONDS)
            except (OSError, EOFError) as error:
                raise RewardError(
                    f"workers for symbolic mathematics die at once: {error}"
                ) from error
            if reply is None or reply.same is not expected:
                raise RewardError(f"a worker says {reply} of {answer} and {truth}, not {expected}")
