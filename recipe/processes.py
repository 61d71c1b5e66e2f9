"""Nothing of a run outlives it: processes, shared-memory segments, temporary files.

Ray ends its workers with SIGKILL, so what they share by name (vLLM's message queues among it)
stays behind unless somebody removes it. Everything here goes by process, never by name.
"""

import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
SAMPLE_SECONDS = 5.0


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for Ray's session and all temporary files, gone at the end.

    Under /tmp whatever TMPDIR says, because Unix sockets allow 107 characters.
    """
    folder = Path(tempfile.mkdtemp(prefix="ba-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def no_leftovers() -> Iterator[None]:
    """Shut Ray down, then end what it left and remove the segments it shared."""
    import ray

    try:
        yield
    finally:
        # A second Ctrl-C must not leave the half of it.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes = psutil.Process().children(recursive=True)
        shared = mapped_segments(processes)
        ray.shutdown()
        end(processes)
        ownerless = shared - mapped_segments(psutil.process_iter())
        for segment in SHARED_MEMORY.iterdir():
            if segment.stat().st_ino in ownerless:
                segment.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, interrupt)


def end(processes: list[psutil.Process]) -> None:
    """Ask these processes to end, and insist after a few seconds."""
    for demand in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                demand(process)
        _, processes = psutil.wait_procs(processes, timeout=3)


def mapped_segments(processes: Iterable[psutil.Process]) -> set[int]:
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


class PeakMemory:
    """The largest memory of this process and its descendants, sampled while it is open.

    Counts the proportional set size: a page shared by k processes counts 1/k in each.
    """

    def __enter__(self) -> "PeakMemory":
        """Begin to sample."""
        self.gib = 0.0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.stop.set()
        self.thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self.stop.wait(SAMPLE_SECONDS):
            kib = sum(proportional_kib(p.pid) for p in (me, *me.children(recursive=True)))
            self.gib = max(self.gib, kib / 2**20)


def proportional_kib(pid: int) -> int:
    """Proportional set size of a process in KiB; 0 if it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
