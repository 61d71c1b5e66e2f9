"""Run one untrusted Python program so that it can neither harm nor learn anything.

Each program gets a fresh interpreter with an empty environment, no packages and three descriptors.
It has limits on time, memory, files and threads. It gets its own working folder, which is removed
afterwards. All its processes are killed at the end, also if the grader itself dies. The level says
how far the program is isolated beyond that:

- `NAMESPACES`: the program has its own user, pid, network, mount and IPC namespaces. It sees only
  the interpreter's files, read-only. Seccomp applies too, and Landlock if the kernel has it.
- `LANDLOCK`: the program can read the same files and write only in its folder (Landlock). It can
  open no socket, start no process and signal no other process (seccomp). It can still ask whether a
  path exists.
- `RLIMITS`: only the limits. The program can read and write the grader's files, use the network and
  send signals. Use this level only for trusted programs, on machines that offer no other.

A level counts as offered only after a test program at this level could not escape
(`strongest_level`).

This is our own and not bubblewrap or nsjail because those are binaries to install, and they need
namespaces, which many containers forbid. Landlock and seccomp work there too.
"""

import fcntl
import functools
import marshal
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple

from reward.errors import RewardError

# The machinery may take this long in addition to the program's own wall time.
GRACE_SECONDS = 30.0
STDERR_CHARS = 4096

Reason = Literal["exit", "wall", "cpu", "tasks", "files"]

_START = "import sys; sys.path.append(sys.argv[1]); from reward.code.keeper import main; main()"
_ROOT = str(Path(__file__).parents[2])


class SandboxError(RewardError):
    """Say that the machinery failed, which says nothing about the program."""


class Level(IntEnum):
    """Name how far a program is isolated from the machine. A higher level is stronger."""

    RLIMITS = 0
    LANDLOCK = 1
    NAMESPACES = 2


class Limits(NamedTuple):
    """Hold what one program may use.

    Attributes:
        cpu_seconds: CPU time of all its threads, in whole seconds. The default is LiveCodeBench's.
        wall_seconds: time from its first line to its end. It is longer than the CPU time, so that a
            busy machine does not turn a correct response into a timeout.
        memory_bytes: address space.
        file_bytes: size of stdout, of stderr, of each file it writes, and of all files together.
        tasks: threads at the same time.
    """

    cpu_seconds: int = 6
    wall_seconds: float = 12.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    tasks: int = 64


LIMITS = Limits()
# On a busy machine the simplest program may once overrun a short wall time.
CANARIES = 3


class Ended(NamedTuple):
    """Hold how a program ended.

    Attributes:
        reason: "exit" if it ended by itself, by return code or signal; else the limit it reached.
        code: its return code; the negative number of the signal if one killed it.
        stdout: everything it wrote, at most `file_bytes`.
        stderr: the end of what it wrote there.
    """

    reason: Reason
    code: int
    stdout: bytes
    stderr: str


def run(
    source: str, stdin: bytes, *, level: Level, limits: Limits = LIMITS, setup: str = ""
) -> Ended:
    """Run a program to its end and remove everything it leaves.

    Any thread of a process with many threads may call this.

    Args:
        source: the program. It becomes the main module of its interpreter.
        stdin: the whole standard input.
        level: how far the program is isolated; `require` chooses a level.
        limits: what the program may use.
        setup: trusted code to run before the program, in the same module.

    Raises:
        SandboxError: the program could not be run, or not at this level.
    """
    try:
        with _memory_file(stdin, sealed=True) as given, _memory_file() as out:
            with _memory_file() as err:
                report = _keep(source, setup, given, out, err, level, limits)
                stderr = _end_of(err)
            if not report:
                cause = stderr.strip().rpartition("\n")[2] or "its keeper process was killed"
                raise SandboxError(f"a program could not be run at level {level.name}: {cause}")
            reason, status, cpu_seconds = marshal.loads(report)
            code = os.waitstatus_to_exitcode(status)
            # A program that ignores the signal is killed a second later.
            over = code == -signal.SIGXCPU or (code < 0 and cpu_seconds > limits.cpu_seconds)
            if reason == "exit" and over:
                reason = "cpu"
            out.seek(0)
            return Ended(reason, code, out.read(limits.file_bytes), stderr)
    except OSError as error:
        raise SandboxError(f"a program could not be run at level {level.name}: {error}") from error


def check(level: Level, limits: Limits = LIMITS) -> None:
    """Run a program that can fail only if the machinery does, or if the limits are too tight.

    Raises:
        SandboxError: the program failed `CANARIES` times.
    """
    for _ in range(CANARIES):
        found = run(_CANARY, b"alive", level=level, limits=limits)
        if found[:3] == ("exit", 0, b"alive"):
            return
    raise SandboxError(
        f"the simplest program fails at level {level.name}: {found.reason}, return code "
        f"{found.code}, stdout {found.stdout[:80]!r}, stderr {found.stderr.strip()[-300:]!r}. "
        f"The limits are {limits}. Raise them if they are tight; otherwise repair the machine."
    )


def require(minimum: Level) -> Level:
    """Return the strongest level that this machine offers.

    Raises:
        SandboxError: this level is below `minimum`.
    """
    found, missing = strongest_level()
    if found < minimum:
        raise SandboxError(
            f"this machine offers level {found.name} to programs, and {minimum.name} is the "
            f"minimum. {missing} Use a machine that offers a stronger level (a kernel with "
            f"Landlock, from Linux 5.13 on, or a container that allows user namespaces), or lower "
            f"the minimum if you trust the programs."
        )
    return found


@functools.cache
def strongest_level() -> tuple[Level, str]:
    """Return the strongest level where a test program could not escape, and why none above it.

    Each process tries this once.

    Raises:
        SandboxError: even the weakest level cannot run a program.
    """
    missing = []
    for level in (Level.NAMESPACES, Level.LANDLOCK):
        try:
            check(level)
            escapes = _escapes(level)
        except SandboxError as error:
            missing.append(f"{level.name}: {error}.")
        else:
            if not escapes:
                return level, " ".join(missing)
            missing.append(f"{level.name}: a program at this level could {escapes}.")
    check(Level.RLIMITS)
    return Level.RLIMITS, " ".join(missing)


def _escapes(level: Level) -> str:
    """Return which forbidden actions succeed for a program at this level, or ""."""
    with tempfile.NamedTemporaryFile() as secret:
        source = _PROBE.format(secret=secret.name, grader=os.getpid())
        found = run(source, b"", level=level)
    escapes, _, rest = found.stdout.decode().rpartition(_PROBED)
    if rest != "\n":
        raise SandboxError(f"the test program for level {level.name} failed: {found}")
    return escapes


def _keep(
    source: str,
    setup: str,
    given: BinaryIO,
    out: BinaryIO,
    err: BinaryIO,
    level: Level,
    limits: Limits,
) -> bytes:
    """Run a keeper process to its end and return its report, which is empty if it failed."""
    job = {
        "level": level.name.lower(),
        "temporary": tempfile.gettempdir(),
        "source": source,
        "setup": setup,
        "stdin": given.fileno(),
        "stdout": out.fileno(),
        **limits._asdict(),
    }
    with _memory_file() as job_file:
        inherited = (given.fileno(), out.fileno(), job_file.fileno())
        job_file.write(marshal.dumps({**job, "descriptors": inherited}))
        job_file.seek(0)
        # Not -I: it ignores PYTHONHASHSEED, and the order of sets would differ from run to run.
        keeper = subprocess.Popen(
            [sys.executable, *"-s -P -S -c".split(), _START, _ROOT, str(job_file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            pass_fds=inherited,
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            start_new_session=True,
        )
    assert keeper.stdin and keeper.stdout
    with keeper.stdin, keeper.stdout:
        try:
            return _read(keeper.stdout, limits.wall_seconds + GRACE_SECONDS)
        finally:
            keeper.stdin.close()
            _reap(keeper)


def _read(report: IO[bytes], seconds: float) -> bytes:
    poll = select.poll()  # select() accepts no descriptor above 1023
    poll.register(report, select.POLLIN)
    if not poll.poll(1000 * seconds):
        raise SandboxError(f"the keeper of a program was silent for {seconds} seconds")
    return report.read()


def _reap(keeper: subprocess.Popen) -> None:
    """Wait for a keeper. Its stdin is closed, so it ends together with its program."""
    try:
        keeper.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


@contextmanager
def _memory_file(content: bytes = b"", *, sealed: bool = False) -> Iterator[BinaryIO]:
    """Open a file that is on no disk. A sealed one cannot be changed."""
    with os.fdopen(
        os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b"
    ) as file:
        file.write(content)
        file.seek(0)
        if sealed:
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
        yield file


def _end_of(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - STDERR_CHARS))
    return file.read(STDERR_CHARS).decode(errors="replace")


_CANARY = "import math, threading; held = bytearray(16 << 20); print(input(), end='')"

_PROBED = "all tried"
_PROBE = f"""
import os, socket
def can(what, attempt):
    try:
        attempt()
    except OSError:
        return
    print(what, end="; ")
can("open a socket", lambda: socket.socket(socket.AF_INET))
can("open a local socket", lambda: socket.socket(socket.AF_UNIX))
can("read a file outside", lambda: open({{secret!r}}).close())
can("write a file outside", lambda: open({{secret!r}}, "a").close())
can("signal the grader", lambda: os.kill({{grader}}, 0))
can("signal its parent", lambda: os.kill(os.getppid(), 0))
can("start a process", lambda: os._exit(0) if os.fork() == 0 else None)
print({_PROBED!r})
"""
