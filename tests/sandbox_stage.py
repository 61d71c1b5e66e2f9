"""Set up the targets of attacks on the sandbox, and find what an attack leaves behind."""

import ctypes
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from reward.code import sandbox
from reward.code.sandbox import Level, SandboxError

_PR_SET_CHILD_SUBREAPER = 36


def missing(level: Level) -> str:
    """Return why this machine does not offer a level, or "" if it does."""
    if level == Level.RLIMITS:
        return ""
    try:
        escapes = sandbox._escapes(level)
    except SandboxError as error:
        return str(error)
    return f"a program at this level could {escapes}" if escapes else ""


MISSING = {level: missing(level) for level in Level}


@contextmanager
def stage(monkeypatch) -> Iterator[dict[str, str]]:
    """Open sockets and make a secret file. Yield the value of each `@NAME@` in the cases."""
    mark = f"mark{uuid.uuid4().hex}"
    memory = ctypes.create_string_buffer(8)
    with ExitStack() as stack:
        outside = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        temporary = outside / "temporary"
        temporary.mkdir()
        (outside / "secret").write_text("escaped")

        def listener(kind: socket.SocketKind, address: Any, family=socket.AF_INET) -> int | str:
            listening = stack.enter_context(socket.socket(family, kind))
            listening.bind(address)
            if kind == socket.SOCK_STREAM:
                listening.listen()
            name = listening.getsockname()
            return name[1] if family == socket.AF_INET else name

        names = {
            "OUTSIDENAME": outside.name,
            "OUTSIDE": outside,
            "SECRET": outside / "secret",
            "CASES": Path(__file__).parent / "reward" / "code_cases.jsonl",
            "GRADER": sandbox.__file__,
            "HOME": Path.home(),
            "MARK": mark,
            "PID": os.getpid(),
            "GROUP": os.getpgrp(),
            "ADDRESS": ctypes.addressof(memory),
            "TCP": listener(socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "UDP": listener(socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "UNIX": listener(socket.SOCK_STREAM, f"{outside}/stream", socket.AF_UNIX),
            "DGRAM": listener(socket.SOCK_DGRAM, f"{outside}/datagram", socket.AF_UNIX),
        }
        listener(socket.SOCK_STREAM, f"\0{mark}", socket.AF_UNIX)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setenv("CODE_SECRET", "escaped")
        yield {name: str(value) for name, value in names.items()}
        # Undo this now: the folder is removed here, before the end of the test.
        monkeypatch.setattr(tempfile, "tempdir", None)


def marked_files(names: dict[str, str]) -> list[str]:
    """Return the files that an attack wrote, and the remains of working folders."""
    packages = os.path.dirname(os.__file__)
    places = ["/tmp", "/dev/shm", names["HOME"], names["OUTSIDE"], packages, os.getcwd(), "/"]
    places += [os.path.dirname(names["GRADER"]), f"{names['OUTSIDE']}/temporary"]
    found = [os.path.join(place, name) for place in places for name in os.listdir(place)]
    work = f"{names['OUTSIDE']}/temporary/"
    return [path for path in found if names["MARK"] in path or path.startswith(work)]


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Make this process the parent of orphans, so that `child_pids` finds them."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def child_pids() -> set[int]:
    """Return the ids of the children of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
