"""Nothing of a run outlives it: processes, shared-memory segments, temporary files.

Ray ends its workers with SIGKILL, so what they share by name (vLLM's message queues among it)
stays behind unless somebody removes it. Everything here goes by process, never by name.
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
# What a run's processes and shared-memory segments are, in its temporary folder.
NOTES = "notes.json"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for Ray's session and all temporary files, gone at the end.

    Under /tmp whatever TMPDIR says, because Unix sockets allow 107 characters. Its lock tells a run
    from what is left of a killed one.
    """
    folder = Path(tempfile.mkdtemp(prefix="ba-", dir="/tmp"))
    try:
        with (folder / "lock.part").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its name only when it is held, or another run might take this one for dead.
            Path(lock.name).rename(folder / "lock")
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clean_up_killed() -> None:
    """End what killed runs of this user left, by the notes in their temporary folders."""
    for left in Path("/tmp").glob("ba-*"):
        # Anybody may put notes there, and another run may just have ended.
        with suppress(FileNotFoundError):
            if left.stat().st_uid == os.getuid():
                clean_up(left)


def clean_up(folder: Path) -> None:
    """End what a run left, if it is dead, and remove its temporary folder."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            notes = json.loads((folder / NOTES).read_text())
    except (BlockingIOError, FileNotFoundError, PermissionError):
        # It runs, begins or ends, or belongs to somebody else.
        return
    left = []
    for pid, created in notes["processes"]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            left += [process] if process.create_time() == created else []
    end(left)
    unlink_unmapped((Path(segment), inode) for segment, inode in notes["shared"])
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alone(lock: Path, what: str, advice: str) -> Iterator[None]:
    """Hold `lock` meanwhile; a killed process holds none.

    Raises:
        UserError: another process holds it for `what`; `advice` says what to do.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} is at work already ({lock} is held). {advice}") from None
        except OSError as error:
            # Lustre and NFS may be mounted without them.
            print(
                f"warning: {lock} cannot be locked ({error}), so nothing keeps {what} from being "
                f"started twice",
                file=sys.stderr,
            )
        yield


class Watch:
    """Follows this process and its descendants, and cleans up after them when it closes.

    Ray and vLLM processes die before or after their parents, so the descendants at the end are
    not all there were: they are sampled while the run goes on. What was seen is noted in the run's
    temporary folder, for whoever comes after a run that was killed.
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

    def __exit__(self, *_: object) -> None:
        """Shut Ray down, then end what it left and remove the segments it shared."""
        import ray

        # A second Ctrl-C or SIGTERM must not leave the half of it.
        stops = (signal.SIGINT, signal.SIGTERM)
        handlers = [signal.signal(stop, signal.SIG_IGN) for stop in stops]
        self.stop.set()
        self.thread.join()
        self._sample()
        # It prints the workers' last lines, and if a full disk does not take them, ends half-way.
        last_lines = io.StringIO()
        with redirect_stdout(last_lines), redirect_stderr(last_lines):
            ray.shutdown()
        with suppress(OSError):
            print(last_lines.getvalue(), end="", flush=True)
        end([process for process in self.seen if process.is_running()])
        unlink_unmapped(self.shared)
        for stop, handler in zip(stops, handlers, strict=True):
            signal.signal(stop, handler)

    def _follow(self) -> None:
        took = 0.0
        # Many processes with much memory take long to read: at most a 20th of the time.
        while not self.stop.wait(max(SAMPLE_SECONDS, 20 * took)):
            started = time.monotonic()
            self._sample()
            took = time.monotonic() - started

    def _sample(self) -> None:
        """Note descendants, their shared segments, and the proportional memory of all.

        A page shared by k processes counts 1/k in each.
        """
        me = psutil.Process()
        descendants = me.children(recursive=True)
        self.seen |= set(descendants)
        inodes = mapped_inodes(descendants)
        for segment in SHARED_MEMORY.iterdir():
            with suppress(FileNotFoundError):
                if (inode := segment.stat().st_ino) in inodes:
                    self.shared.add((segment, inode))
        processes = [(process.pid, process.create_time()) for process in self.seen]
        shared = [(str(segment), inode) for segment, inode in self.shared]
        # What a full disk does not take is missed only if this run is killed.
        with suppress(OSError):
            write_atomically(self.notes, json.dumps({"processes": processes, "shared": shared}))
        kib = sum(proportional_kib(process.pid) for process in (me, *descendants))
        self.peak_gib = max(self.peak_gib, kib / 2**20)


def end(processes: list[psutil.Process]) -> None:
    """Ask these processes to end, and insist after a few seconds."""
    for demand in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                demand(process)
        _, processes = psutil.wait_procs(processes, timeout=3)


def unlink_unmapped(segments: Iterable[tuple[Path, int]]) -> None:
    """Remove shared-memory segments, by path and inode, that no process has mapped any more."""
    mapped = mapped_inodes(psutil.process_iter())
    for segment, inode in segments:
        if inode not in mapped and segment.exists() and segment.stat().st_ino == inode:
            segment.unlink()


def mapped_inodes(processes: Iterable[psutil.Process]) -> set[int]:
    """Inodes of the files under /dev/shm that these processes have mapped.

    By inode, because a semaphore is mapped under another name than it is opened by.
    """
    found: set[int] = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        found |= {int(inode) for inode in re.findall(rf" (\d+)\s+{SHARED_MEMORY}/", maps)}
    return found


def proportional_kib(pid: int) -> int:
    """Proportional set size of a process in KiB; 0 if it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
