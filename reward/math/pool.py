"""Keep a pool of worker processes that can be killed, for comparisons that may never end.

A caller's thread takes a worker, sends it one question and waits until the deadline. The deadline
counts the worker's CPU time, so a busy machine does not turn a correct answer into a timeout. The
pool has no thread of its own. If all workers are busy, a caller waits for one. A worker that misses
the deadline is killed and replaced, and the others go on.

This is our own and not a pool from a library because killing and replacing a worker must take
milliseconds: a response that hangs then delays no other one.
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
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from reward.errors import RewardError

# A worker is replaced after this many questions, because the caches of sympy and the parser grow.
QUESTIONS_PER_WORKER = 1000
# Pairs with a known result. They are compared before the first fork: this fills the parser's tables
# for every worker and proves that the installed libraries work. They are compared again if workers
# die.
KNOWN = (
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}", True),
    (r"(x+1)(x-12)", r"x^2 - 11x - 12", True),
    (r"\frac{n(n+1)}{2}", r"\frac{1}{2}n^2 + \frac{n}{2}", True),
    (r"\sin^2 \theta", r"1 - \cos^2 \theta", True),
    (r"x \ge 3", r"[3, \infty)", True),
    (r"y = 2x + 1", r"2x - y + 1 = 0", True),
    (r"e^{2}\ln 3", r"e^{3}\ln 2", False),
)

# The wall time of a question, in deadlines. It ends a worker that gets hardly any CPU time.
WALL_TIME = 5.0
# The kernel counts CPU time in ticks of this many seconds.
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
ATTEMPTS = 2
START_SECONDS = 120.0
# A worker finds this package here, also if the working directory holds another one.
ROOT = str(Path(__file__).parents[2])


class Reply(NamedTuple):
    """Hold the reply to a question.

    Attributes:
        same: whether the two answers are the same; None if that was not decided.
        error: why it was not decided.
        over_limit: whether the comparison exceeded its time or its memory.
    """

    same: bool | None
    error: str = ""
    over_limit: bool = False


class _Worker:
    """Hold a worker process, the connection to it, and how many questions it may still get.

    Args:
        connection: carries questions and replies.
        process: a descriptor of the process.
    """

    def __init__(self, connection: Connection, process: int) -> None:
        self.connection, self.process = connection, process
        self.left = QUESTIONS_PER_WORKER
        about = Path(f"/proc/self/fdinfo/{process}").read_text()
        pid = next(line.split()[1] for line in about.splitlines() if line.startswith("Pid:"))
        self._status = Path(f"/proc/{pid}/stat")

    def ask(self, answer: str, truth: str, deadline: float) -> Reply:
        """Return the reply to a question. It says `over_limit` if the worker overran and must go.

        Args:
            answer: the answer of the response.
            truth: the ground truth.
            deadline: seconds of CPU time.

        Raises:
            OSError, EOFError: the worker died.
        """
        self.left -= 1
        start, end = self._cpu_seconds(), time.monotonic() + WALL_TIME * deadline
        self.connection.send_bytes(json.dumps([answer, truth]).encode())
        left = deadline
        while not self.connection.poll(max(left, TICK_SECONDS)):
            cpu_left, wall_left = start + deadline - self._cpu_seconds(), end - time.monotonic()
            left = min(cpu_left, wall_left)
            if left <= 0:
                kind, allowed = "CPU", deadline
                if cpu_left > 0:
                    kind, allowed = "wall", WALL_TIME * deadline
                error = f"not decided after {allowed:g} s of {kind} time"
                return Reply(None, error, over_limit=True)
        reply = json.loads(self.connection.recv_bytes())
        return Reply(reply.get("same"), reply.get("error", ""), reply.get("limit", False))

    def _cpu_seconds(self) -> float:
        """Return the CPU time that the process has used so far (man 5 proc, fields 14 and 15)."""
        fields = self._status.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_SECONDS

    def kill(self) -> None:
        """End the process and wait until it and its memory are gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        gone = select.poll()  # select() accepts no descriptor above 1023
        gone.register(self.process, select.POLLIN)
        gone.poll()
        os.close(self.process)
        self.connection.close()


class _Template:
    """Start and hold the process that workers are forked from.

    Raises:
        OSError, EOFError: the process could not be started, or it has ended.
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
            raise OSError(f"{error}; it printed: {self.close()}") from error

    def _await(self) -> list[int]:
        """Wait for the template's next message and return the descriptors that come with it."""
        sign, descriptors, _, _ = socket.recv_fds(self.control, 1, 1)
        if not sign:
            raise EOFError("the template process ended")
        return list(descriptors)

    def fork(self) -> _Worker:
        """Return a new worker."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"+"], [theirs.fileno()])
        processes = self._await()
        if not processes:
            ours.close()
            raise OSError(
                "the template process could not fork, or this process has no free descriptor"
            )
        return _Worker(Connection(ours.detach()), processes[0])

    def close(self) -> str:
        """End the process by closing its socket and return the end of what it printed."""
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
    """Compare answers in worker processes, each within a deadline and a memory limit.

    Threads may share a pool. Processes may not: a forked process has to make its own pool.

    Args:
        workers: how many comparisons run at the same time.
        deadline: seconds of CPU time for one comparison. It may take `WALL_TIME` times as long.
        memory: bytes of address space for one worker.
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
        """Compare two answers by symbolic mathematics.

        Raises:
            RewardError: no worker could be started, or workers die on every question.
        """
        if os.getpid() != self._owner:
            raise RewardError(
                "this pool belongs to the parent process. Make a new pool after a fork."
            )
        worker = self._slots.get()
        is_reusable = False
        try:
            for _ in range(ATTEMPTS):
                worker = worker or self._fork()
                try:
                    reply = worker.ask(answer, truth, self.deadline)
                except (OSError, EOFError):
                    dead, worker = worker, None
                    dead.kill()
                    continue
                is_reusable = worker.left > 0 and not reply.over_limit
                return reply
            worker = self._fork()
            self._prove(worker)
            is_reusable = True
            return Reply(None, "ended the process that read it", over_limit=True)
        finally:
            try:
                # After an error its reply may still be on the way. The next caller must not get it.
                if worker and not is_reusable:
                    worker.kill()
            finally:
                self._slots.put(worker if is_reusable else None)

    def close(self) -> None:
        """End the idle workers and the template. Workers in use end with the template."""
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(queue.Empty):
                while True:
                    if worker := self._slots.get_nowait():
                        worker.kill()
            if self._template:
                self._template.close()
            for _ in range(self.workers):  # later callers get an error instead of waiting for ever
                self._slots.put(None)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fork(self) -> _Worker:
        """Return a new worker, from a new template if the old one has ended."""
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
            "Check the free memory and the installation of math-verify."
        ) from cause

    def _prove(self, worker: _Worker) -> None:
        """Check that a worker still gives the known results, so that the answer was at fault.

        Raises:
            RewardError: it gives another result, so the machinery is at fault.
        """
        for answer, truth, expected in KNOWN:
            try:
                reply = worker.ask(answer, truth, START_SECONDS)
            except (OSError, EOFError) as error:
                raise RewardError(
                    f"workers for symbolic mathematics die at once: {error}"
                ) from error
            if reply.same is not expected:
                raise RewardError(
                    f"a worker compared {answer} with {truth}: expected {expected}, found {reply}"
                )
