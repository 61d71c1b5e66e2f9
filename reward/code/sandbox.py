"""Run one Python program that nobody has read, so that it can harm and learn nothing.

Each program gets a fresh interpreter with an empty environment, no packages, three descriptors,
limits on time, memory, files and threads, and a working folder of its own that is removed. All
its processes are killed at the end, also when the grader itself dies. How far it is closed off
besides is the level:

- `NAMESPACES`: own user, pid, network, mount and IPC namespaces; it sees no file but the
  interpreter's, read-only. Seccomp and, where the kernel has it, Landlock hold as well.
- `LANDLOCK`: the same files to read, none to write outside the folder (Landlock); no sockets, no
  new processes, no signals to others (seccomp). It still can ask whether a path exists.
- `RLIMITS`: limits alone. The program can read and write what the grader can, use the network and
  send signals. For machines that offer nothing else and programs that are trusted.

A level counts as offered only after a program run at it failed to escape (`strongest_level`).
"""

import fcntl
import functools
import marshal
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from reward.errors import RewardError

# What the machinery may take beside the program's own wall time.
GRACE_SECONDS = 30.0
STDERR_CHARS = 4096

Reason = Literal["exit", "wall", "cpu", "tasks", "files"]

_START = "import sys; sys.path.append(sys.argv[1]); from reward.code.keeper import main; main()"
_ROOT = str(Path(__file__).parents[2])


class SandboxError(RewardError):
    """The machinery failed, which says nothing about the program."""


class Level(IntEnum):
    """How far a program is closed off from the machine; more is stronger."""

    RLIMITS = 0
    LANDLOCK = 1
    NAMESPACES = 2


class Limits(NamedTuple):
    """What one program may use.

    Attributes:
        cpu_seconds: CPU time of all its threads, in whole seconds. LiveCodeBench's limit.
        wall_seconds: time from its first line to its end; longer than the CPU time, so that a
            busy machine does not turn a right response into a timeout.
        memory_bytes: address space.
        file_bytes: each of stdout, stderr and a file it writes, and all files together.
        tasks: threads at one time.
    """

    cpu_seconds: int = 6
    wall_seconds: float = 12.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    tasks: int = 64


LIMITS = Limits()


class Ended(NamedTuple):
    """How a program ended.

    Attributes:
        reason: "exit" where it ended itself, by return code or signal; else the limit it reached.
        code: its return code, negative for the signal that killed it.
        stdout: all it wrote, at most `file_bytes`.
        stderr: the end of what it wrote.
    """

    reason: Reason
    code: int
    stdout: bytes
    stderr: str


def run(
    source: str, stdin: bytes, *, level: Level, limits: Limits = LIMITS, setup: str = ""
) -> Ended:
    """Run a program to its end and leave nothing of it.

    Safe to call from any thread of a process with many.

    Args:
        source: the program; it is the main module of its interpreter.
        stdin: all it can read there.
        level: how it is closed off; `require` chooses one.
        limits: what it may use.
        setup: trusted code to run before it, in the same module.

    Raises:
        SandboxError: the program could not be run, or not at this level.
    """
    try:
        with _memory_file(stdin, sealed=True) as given, _memory_file() as out:
            with _memory_file() as err:
                report = _keep(source, setup, given, out, err, level, limits)
                stderr = _end_of(err)
            if not report:
                cause = stderr.strip().rpartition("\n")[2] or "its keeper was killed"
                raise SandboxError(f"a program could not be run at level {level.name}: {cause}")
            reason, status, cpu_seconds = marshal.loads(report)
            code = os.waitstatus_to_exitcode(status)
            # The kernel kills at whole seconds, give or take a tick.
            if reason == "exit" and code < 0 and cpu_seconds > limits.cpu_seconds - 0.1:
                reason = "cpu"
            out.seek(0)
            return Ended(reason, code, out.read(limits.file_bytes), stderr)
    except OSError as error:
        raise SandboxError(f"a program could not be run at level {level.name}: {error}") from error


def check(level: Level, limits: Limits = LIMITS) -> None:
    """Run a program that cannot fail unless the machinery does.

    Raises:
        SandboxError: it failed.
    """
    found = run(_CANARY, b"alive", level=level, limits=limits)
    if found[:3] != ("exit", 0, b"alive"):
        raise SandboxError(
            f"the simplest program fails at level {level.name}: {found.reason}, return code "
            f"{found.code}, stdout {found.stdout[:80]!r}, stderr {found.stderr.strip()[-300:]!r}. "
            f"The limits are {limits}; raise them if they are tight, else repair the machine."
        )


def require(minimum: Level) -> Level:
    """The strongest level this machine offers.

    Raises:
        SandboxError: it is below `minimum`.
    """
    found, missing = strongest_level()
    if found < minimum:
        raise SandboxError(
            f"this machine offers level {found.name} to programs, and {minimum.name} is the "
            f"minimum. {missing} Run where a stronger level works (a kernel with Landlock, from "
            f"Linux 5.13 on, or a container that admits user namespaces), or lower the minimum if "
            f"you trust the programs."
        )
    return found


@functools.cache
def strongest_level() -> tuple[Level, str]:
    """The strongest level at which a program really could not escape, and why none above it.

    Found out once per process, by trying.

    Raises:
        SandboxError: not even the weakest level runs a program.
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
            missing.append(f"{level.name}: a program run at it could {escapes}.")
    check(Level.RLIMITS)
    return Level.RLIMITS, " ".join(missing)


def _escapes(level: Level) -> str:
    """What a program at this level can do that it should not, "" for nothing."""
    with tempfile.NamedTemporaryFile() as secret:
        source = _PROBE.format(secret=secret.name, grader=os.getpid())
        found = run(source, b"", level=level)
    escapes, _, rest = found.stdout.decode().rpartition(_PROBED)
    if rest != "\n":
        raise SandboxError(f"the program that tries level {level.name} fails: {found}")
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
    """Run a keeper to its end; its report, which is empty if it failed."""
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
        # -I would ignore the seed, without which the order of sets differs from run to run.
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


def _read(report: BinaryIO, seconds: float) -> bytes:
    poll = select.poll()  # select() refuses the high descriptors of a process with many
    poll.register(report, select.POLLIN)
    if not poll.poll(1000 * seconds):
        raise SandboxError(f"a program's keeper was silent for {seconds} seconds")
    return report.read()


def _reap(keeper: subprocess.Popen) -> None:
    """Wait for a keeper whose stdin is closed, which ends it with all it keeps."""
    try:
        keeper.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


@contextmanager
def _memory_file(content: bytes = b"", *, sealed: bool = False) -> Iterator[BinaryIO]:
    """A file that is on no disk; a sealed one cannot be changed."""
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
