"""Clean up after a run: its processes, shared-memory segments and temporary files.

Ray ends its workers with SIGKILL, so segments that they share by name (vLLM's message queues among
them) stay behind unless somebody removes them. The code here finds everything by process id and
never by name.
"""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import psutil

from recipe.base.errors import UserError
from recipe.base.files import write_atomically

SHARED_MEMORY = Path("/dev/shm")
SAMPLE_SECONDS = 4.0
# Between two looks for new segments: a run that is killed leaves those that it had not noted.
LOOK_SECONDS = 0.25
# Lists a run's processes and shared-memory segments, in its temporary folder.
NOTES = "notes.json"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for Ray's session and all temporary files, and remove it at the end.

    It is under /tmp whatever TMPDIR says, because the path of a Unix socket has at most 107
    characters. The lock in it shows that its run is alive.
    """
    folder = Path(tempfile.mkdtemp(prefix="ba-", dir="/tmp"))
    try:
        with (folder / "lock.part").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Renamed only once it is held, or another run might take this one for dead.
            Path(lock.name).rename(folder / "lock")
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clean_up_killed() -> None:
    """End what killed runs of this user left, by the notes in their temporary folders."""
    for left in Path("/tmp").glob("ba-*"):
        # Other users may put notes there, and another run may just have ended.
        with suppress(FileNotFoundError):
            if left.stat().st_uid == os.getuid():
                clean_up(left)


def clean_up(folder: Path) -> None:
    """End what a run left, if it is dead, and remove its temporary folder."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            notes = {"processes": [], "shared": []}
            # A run that was killed early had written none.
            if (folder / NOTES).exists():
                notes = json.loads((folder / NOTES).read_text())
    except (BlockingIOError, FileNotFoundError, PermissionError):
        # The run is alive, is starting or ending, or belongs to another user.
        return
    left = []
    for pid, created in notes["processes"]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            left += [process] if process.create_time() == created else []
    end(left)
    unlink_unused((Path(segment), inode) for segment, inode in notes["shared"])
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(lock: Path, what: str, advice: str) -> Iterator[None]:
    """Hold `lock` inside the context; the system frees the lock of a killed process.

    Raises:
        UserError: another process holds it for `what`; `advice` says what to do.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is already running ({lock} is held). {advice}") from None
        except OSError as error:
            # Lustre and NFS may be mounted without locks.
            print(
                f"warning: {lock} cannot be locked ({error}), so nothing prevents {what} from "
                f"being started twice",
                file=sys.stderr,
            )
        yield


class Watch:
    """Follow this process and its descendants, and clean up after them when it closes.

    Ray and vLLM processes end before or after their parents, so the descendants at the end are not
    all that there were. They are sampled while the run goes on. What was seen is noted in the run's
    temporary folder, so that the next run can clean up if this one is killed.
    """

    def __init__(self, folder: Path) -> None:
        """Keep notes in `folder`."""
        self.notes = folder / NOTES

    def __enter__(self) -> "Watch":
        """Begin to follow."""
        self.peak_gib = 0.0
        self.seen: set[psutil.Process] = set()
        self.shared: set[tuple[Path, int]] = set()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut Ray down, then end what it left and remove what it shared."""
        import ray

        # A second Ctrl-C or SIGTERM must not stop the clean-up half-way.
        stops = (signal.SIGINT, signal.SIGTERM)
        handlers = [signal.signal(stop, signal.SIG_IGN) for stop in stops]
        self.stop.set()
        self.thread.join()
        if kind is not None:
            # Interrupted at work: what a worker shared after the last look would stay.
            suspend_python(psutil.Process().children(recursive=True))
        self._sample()
        sockets = bound_sockets(psutil.Process().children(recursive=True))
        # Ray prints the workers' last lines, and would stop half-way if the disk is full.
        last_lines = io.StringIO()
        with redirect_stdout(last_lines), redirect_stderr(last_lines):
            ray.shutdown()
        with suppress(OSError):
            print(last_lines.getvalue(), end="", flush=True)
        end([process for process in self.seen if process.is_running()])
        unlink_unused(self.shared)
        for socket in sockets:
            socket.unlink(missing_ok=True)
        for stop, handler in zip(stops, handlers, strict=True):
            signal.signal(stop, handler)

    def _follow(self) -> None:
        """Look for new segments often; measure memory seldom, because it takes long."""
        seen: set[str] = set()
        next_sample = 0.0
        while not self.stop.wait(min(LOOK_SECONDS, SAMPLE_SECONDS)):
            started, found = time.monotonic(), set(os.listdir(SHARED_MEMORY))
            if started >= next_sample:
                self._sample()
                # Reading many processes with much memory: spend at most a 20th of the time.
                took = time.monotonic() - started
                next_sample = started + max(SAMPLE_SECONDS, 20 * took)
            elif found - seen:
                self._note()
            seen = found

    def _sample(self) -> None:
        """Note what there is, and the proportional memory of all processes.

        A page shared by k processes counts 1/k in each.
        """
        processes = [psutil.Process(), *self._note()]
        size = sum(proportional_bytes(process) for process in processes)
        self.peak_gib = max(self.peak_gib, size / 2**30)

    def _note(self) -> list[psutil.Process]:
        """Note descendants and their shared segments, and return the descendants."""
        descendants = psutil.Process().children(recursive=True)
        self.seen |= set(descendants)
        inodes = used_inodes(descendants)
        for segment in SHARED_MEMORY.iterdir():
            with suppress(FileNotFoundError):
                if (inode := segment.stat().st_ino) in inodes:
                    self.shared.add((segment, inode))
        processes = [(process.pid, process.create_time()) for process in self.seen]
        shared = [(str(segment), inode) for segment, inode in self.shared]
        # On a full disk the notes are lost, and needed only if this run is killed.
        with suppress(OSError):
            write_atomically(self.notes, json.dumps({"processes": processes, "shared": shared}))
        return descendants


def suspend_python(processes: list[psutil.Process]) -> None:
    """Suspend the workers among these processes; Ray's daemons, which end them, go on."""
    python = os.path.realpath(sys.executable)
    for process in processes:
        with suppress(psutil.Error):
            if os.path.realpath(process.exe()) == python:
                process.suspend()


def bound_sockets(processes: list[psutil.Process]) -> set[Path]:
    """Return the paths of the Unix sockets that these processes have."""
    found: set[Path] = set()
    for process in processes:
        with suppress(psutil.Error):
            found |= {Path(str(one.laddr)) for one in process.net_connections("unix") if one.laddr}
    return {path for path in found if path.is_socket()}


def end(processes: list[psutil.Process]) -> None:
    """Ask these processes to end, and kill those that are left after a few seconds."""
    for demand in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                demand(process)
        _, processes = psutil.wait_procs(processes, timeout=3)


def unlink_unused(segments: Iterable[tuple[Path, int]]) -> None:
    """Remove the shared-memory segments, given by path and inode, that no process uses."""
    used = used_inodes(psutil.process_iter())
    for segment, inode in segments:
        if inode not in used and segment.exists() and segment.stat().st_ino == inode:
            segment.unlink()


def used_inodes(processes: Iterable[psutil.Process]) -> set[int]:
    """Return the inodes of the files under /dev/shm that these processes have mapped or open.

    A name would not do, because a semaphore is mapped under another name than it is opened by. A
    process that was suspended between opening and mapping a file has it only open.
    """
    found: set[int] = set()
    for process in processes:
        with suppress(FileNotFoundError, PermissionError, ProcessLookupError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found |= {int(inode) for inode in re.findall(rf" (\d+)\s+{SHARED_MEMORY}/", maps)}
            for opened in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if os.readlink(opened).startswith(f"{SHARED_MEMORY}/"):
                        found.add(opened.stat().st_ino)
    return found


def proportional_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process; 0 if it is gone or may not be read."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0
