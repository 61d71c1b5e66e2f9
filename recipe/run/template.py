"""Start the processes of a run as forks of one process that has imported what they all need.

A run on a CPU has a dozen processes. Each would import torch, verl or vLLM for itself, one after
the other, and that was most of the time before the first step. The template imports them once. Ray
and multiprocessing are given the command of `fork_client.py` in place of `python`.
"""

import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import select
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

CLIENT = Path(__file__).with_name("fork_client.py")
# Ray numbers the jobs of a cluster, and a Ray of the run's own has only this one.
FIRST_JOB = "01000000"
# A cluster lives longer than its jobs, whose templates must not.
IDLE_SECONDS = 120


class Template:
    """The process that imports while this one goes on; its forks end with it.

    Attributes:
        command: what to use in place of `python`.
    """

    def __init__(self, folder: Path, modules: Iterable[str], environment: dict[str, str]) -> None:
        """Start it, with its socket in `folder`, which nobody else may open."""
        address = str(folder / "template")
        self.command = client(address)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            # Clients may come before the imports are done: they wait.
            server.listen(64)
            # Its stdin closes when this process is killed. Clients show its log if it ends early.
            with open(f"{address}.log", "wb") as log:
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", __name__, address, str(server.fileno())),
                        ",".join(modules),
                    ],
                    env=environment | {"RAY_JOB_ID": FIRST_JOB},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[server.fileno()],
                    start_new_session=True,
                )

    def __enter__(self) -> "Template":
        """Go on at once."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the template, and with it every fork that is left."""
        self.process.terminate()
        self.process.wait()


def client(place: str) -> str:
    """Return what to use in place of `python`.

    Args:
        place: the socket of a template; or modules with commas between them, for a template that
            the first worker of a Ray job starts on each node.
    """
    return shlex.join([sys.executable, "-IS", str(CLIENT), sys.executable, place])


def main() -> None:
    """Import, fork on request, and be in each fork what was asked for."""
    address, server, modules = sys.argv[1:]
    # multiprocessing takes the path of a program, without arguments.
    program = Path(f"{address}.python")
    program.write_text(f'#!/bin/sh\nexec {client(address)} "$@"\n')
    program.chmod(0o700)
    # Ended by the run, it still removes what it wrote.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # A folder may be mounted so that no program in it runs.
    if os.access(program, os.X_OK):
        multiprocessing.set_executable(str(program))
    # Ray's workers end when this process does. Ray reads the number when it is imported.
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    draw_no_ray_ids()
    for module in modules.split(","):
        importlib.import_module(module)
    # Another Ray may not have what this needs. A failure in every fork would be an endless start.
    read_ray_settings()
    # The collector would write to all objects of every fork, and a page that is written to is
    # no longer shared.
    gc.collect()
    gc.freeze()
    request = None
    try:
        request = serve(socket.socket(fileno=int(server)))
    finally:
        if request is None:
            for path in (address, program, f"{address}.log"):
                Path(path).unlink(missing_ok=True)
            # A run's folder holds more, and the run removes it.
            with suppress(OSError):
                Path(address).parent.rmdir()
    if request is not None:
        become(request)


def draw_no_ray_ids() -> None:
    """Give classes that are made actors while they are imported ids from the system.

    Ray's own generator cannot be seeded anew in a fork. Had it drawn here, all forks would draw the
    same ids, and two that put an object into Ray's store at once would put the same: one crashes.
    """
    actor: Any = importlib.import_module("ray.actor")
    kind = actor.ActorClassID
    drawn = types.SimpleNamespace(from_random=lambda: kind(os.urandom(kind.size())))
    actor.ActorClassID = drawn


def serve(server: socket.socket) -> dict[str, Any] | None:
    """Fork on request, until stdin says so or nobody has needed a fork for long.

    Returns:
        None in the template, and in each fork its request.
    """
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin, selectors.EVENT_READ)
    waiting.register(server, selectors.EVENT_READ)
    while True:
        ready = waiting.select(IDLE_SECONDS)
        # These two are always waited for; the others are forks.
        if not ready and len(waiting.get_map()) == 2:
            return None
        for key, _ in ready:
            if key.fileobj is sys.stdin:
                return None
            if key.fileobj is server:
                asking, _ = server.accept()
                request = receive(asking)
                if request is None:
                    asking.close()
                    continue
                pid = os.fork()
                if pid == 0:
                    for file in waiting.get_map().values():
                        forget(file)
                    waiting.close()
                    return request
                for number in request["received"]:
                    os.close(number)
                tell(asking, pid)
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, asking))
            else:
                pid, asking = key.data
                tell(asking, os.waitpid(pid, 0)[1])
                waiting.unregister(key.fileobj)
                forget(key)


def receive(asking: socket.socket) -> dict[str, Any] | None:
    """Return what a client asks for, None if it ended meanwhile."""
    text, received = b"", []
    with suppress(ConnectionError):
        head, received, _, _ = socket.recv_fds(asking, 8, 253)
        size = int.from_bytes(head, "big")
        with asking.makefile("rb") as file:
            text = file.read(size)
    if not text or len(text) < size:
        for number in received:
            os.close(number)
        return None
    return json.loads(text) | {"client": asking, "received": received}


def tell(asking: socket.socket, number: int) -> None:
    """Send a number to a client, unless it is gone; a fork ends with its client."""
    with suppress(OSError):
        asking.sendall(number.to_bytes(8, "big"))


def forget(key: selectors.SelectorKey) -> None:
    """Close a file that the template waits for, and the connection that belongs to it."""
    if key.data:
        os.close(key.fd)
        key.data[1].close()
    elif isinstance(key.fileobj, socket.socket):
        key.fileobj.close()


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for, as if Python had started with its arguments."""
    client = take_files(request["received"], request["files"], request["client"].detach())
    others = (client, os.pidfd_open(os.getppid()))
    threading.Thread(target=end_with, args=others, daemon=True).start()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.nice(request["niceness"] - os.nice(0))
    start_anew()
    arguments = request["arguments"]
    while arguments[0].startswith("-") and arguments[0] != "-c":
        arguments.pop(0)
    module = types.ModuleType("__main__")
    if arguments[0] == "-c":
        folder, source = "", arguments.pop(1)
    else:
        module.__file__ = arguments[0]
        folder, source = str(Path(arguments[0]).parent), Path(arguments[0]).read_text()
    sys.argv = arguments
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [folder, *named, *(path for path in sys.path[1:] if path not in named)]
    sys.modules["__main__"] = module
    exec(compile(source, arguments[0], "exec"), module.__dict__)


def start_anew() -> None:
    """Undo what the template did and should be done in each process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Found once, by TMPDIR.
    tempfile.tempdir = None
    # Python's own generator seeds itself in a fork.
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    # OpenMP reads the number when torch is imported.
    if "torch" in sys.modules and "OMP_NUM_THREADS" in os.environ:
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    read_ray_settings()


def read_ray_settings() -> None:
    """Let Ray read its settings from the environment again, as ray.init does for authentication."""
    if "ray" in sys.modules:
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def take_files(received: list[int], numbers: list[int], client: int) -> int:
    """Give the received files the numbers that they have in the client.

    Returns:
        the connection to the client, moved out of their way.
    """
    above = max([*numbers, *received, client]) + 1
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, above) for number in (*received, client)]
    for number in (*received, client):
        os.close(number)
    for number, wanted in zip(moved, numbers, strict=False):
        os.dup2(number, wanted)
        os.close(number)
    return moved[-1]


def end_with(*others: int) -> None:
    """End this process when one of these files says that its process has ended."""
    waiting = select.poll()
    for other in others:
        waiting.register(other, select.POLLIN)
    waiting.poll()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
