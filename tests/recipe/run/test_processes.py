import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing import shared_memory
from pathlib import Path

import psutil
import pytest

from recipe.base.errors import UserError
from recipe.run import processes
from recipe.run.processes import (
    Watch,
    alone,
    clean_up,
    clean_up_killed,
    proportional_bytes,
    temporary_folder,
    used_inodes,
)

# A child that shares memory by name and never cleans up, as a killed vLLM server does.
CHILD = """
import sys, time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None
segment = shared_memory.SharedMemory(create=True, size=4096)
print(segment.name, flush=True)
time.sleep(600)
"""


def start_child() -> tuple[subprocess.Popen, Path]:
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    return child, Path("/dev/shm") / child.stdout.readline().strip()


def test_processes_and_segments_of_a_run_are_gone_after_it(tmp_path):
    with Watch(tmp_path):
        child, segment = start_child()
        assert segment.exists()
    assert not psutil.pid_exists(child.pid)
    assert not segment.exists()


def test_processes_and_segments_are_gone_after_an_error_too(tmp_path):
    try:
        with Watch(tmp_path):
            child, segment = start_child()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not psutil.pid_exists(child.pid)
    assert not segment.exists()


BUSY = """
import mmap, os, socket, sys, time
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
kept = []
while True:
    file = open(f"/dev/shm/psm_{os.getpid()}_{len(kept)}", "w+b")
    file.truncate(4096)
    kept.append(mmap.mmap(file.fileno(), 4096))
    if len(kept) == 1:
        print(kept, flush=True)
    time.sleep(0.002)
"""


def test_a_run_that_is_interrupted_at_work_leaves_no_segment_and_no_socket(tmp_path):
    """The child makes new segments until it is ended."""
    path = tmp_path / "socket"
    with pytest.raises(KeyboardInterrupt), Watch(tmp_path):
        command = [sys.executable, "-c", BUSY, str(path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        raise KeyboardInterrupt
    assert not psutil.pid_exists(child.pid)
    assert not [*Path("/dev/shm").glob(f"psm_{child.pid}_*")]
    assert not path.exists()


def test_a_segment_that_another_process_still_uses_stays(tmp_path):
    child, segment = start_child()
    mine = shared_memory.SharedMemory(name=segment.name)
    try:
        with Watch(tmp_path):
            pass
        assert not psutil.pid_exists(child.pid)
        assert segment.exists()
    finally:
        mine.close()
        segment.unlink(missing_ok=True)


def test_segments_of_a_process_that_died_before_the_end_are_removed_too(monkeypatch, tmp_path):
    """Ray may end a worker, and so orphan what it started, before the run is over."""
    monkeypatch.setattr(processes, "SAMPLE_SECONDS", 0.05)
    with Watch(tmp_path):
        child, segment = start_child()
        deadline = time.monotonic() + 30
        notes = tmp_path / "notes.json"
        while not (notes.exists() and str(segment) in notes.read_text()):
            assert time.monotonic() < deadline, "the segment was never sampled"
            time.sleep(0.05)
        child.kill()
        child.wait()
        assert segment.exists()
    assert not segment.exists()


def test_a_new_segment_is_noted_at_once_however_long_memory_takes_to_measure(monkeypatch, tmp_path):
    """Noted late, it would stay if the run is killed soon after its engine has started."""
    measured = []
    monkeypatch.setattr(processes, "SAMPLE_SECONDS", 600)
    monkeypatch.setattr(processes, "proportional_bytes", lambda _: measured.append(1) or 0)
    notes = tmp_path / "notes.json"
    with Watch(tmp_path):
        while not measured:
            time.sleep(0.05)
        _, segment = start_child()
        deadline = time.monotonic() + 30
        while str(segment) not in notes.read_text():
            assert time.monotonic() < deadline, "the segment was never noted"
            time.sleep(0.05)
    assert not segment.exists()


def test_the_peak_is_of_all_processes_together(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "SAMPLE_SECONDS", 0.05)
    code = "x = bytearray(300 * 2**20); print(flush=True); import time; time.sleep(600)"
    with Watch(tmp_path) as watch:
        pipe = subprocess.PIPE
        children = [subprocess.Popen([sys.executable, "-c", code], stdout=pipe) for _ in range(2)]
        for child in children:
            child.stdout.readline()
        time.sleep(1)
    assert watch.peak_gib > 0.58 + proportional_bytes(psutil.Process()) / 2**30 - 0.1
    assert all(not psutil.pid_exists(child.pid) for child in children)


def test_a_semaphore_is_found_though_it_is_mapped_under_another_name():
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    inodes = {path.stat().st_ino for path in Path("/dev/shm").glob("sem.mp-*")}
    assert used_inodes([psutil.Process()]) & inodes
    del semaphore


def test_a_segment_that_is_open_and_not_yet_mapped_is_found():
    path = Path(f"/dev/shm/psm_{os.getpid()}_open")
    with path.open("wb") as file:
        path_inode = os.fstat(file.fileno()).st_ino
        assert path_inode in used_inodes([psutil.Process()])
    path.unlink()
    assert path_inode not in used_inodes([psutil.Process()])


def test_the_memory_of_a_process_is_counted_and_that_of_an_ended_one_is_zero():
    assert proportional_bytes(psutil.Process()) > 10_000_000
    child = subprocess.Popen(["true"])
    process = psutil.Process(child.pid)
    child.wait()
    assert proportional_bytes(process) == 0


def test_a_second_run_is_refused_until_the_first_is_over(tmp_path):
    lock = tmp_path / "cache" / "run.lock"
    with alone(lock, "this run", "Wait."):
        with pytest.raises(UserError, match=r"this run is already running .*held\)\. Wait\."):
            with alone(lock, "this run", "Wait."):
                pass
    with alone(lock, "this run", "Wait."):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
def test_notes_of_another_user_are_not_followed():
    killed, folder, pid, segment = start_run("os.kill(os.getpid(), signal.SIGKILL)")
    killed.wait()
    os.chown(folder, 12345, -1)
    clean_up_killed()
    assert folder.exists() and psutil.pid_exists(pid) and segment.exists()
    os.chown(folder, 0, -1)
    clean_up_killed()
    assert not (folder.exists() or psutil.pid_exists(pid) or segment.exists())


def test_a_full_disk_does_not_keep_a_run_from_cleaning_up(tmp_path, monkeypatch):
    watch = Watch(tmp_path)
    with watch:
        child, segment = start_child()
        watch.notes = tmp_path / "missing" / "notes.json"  # no note can be written
    assert not psutil.pid_exists(child.pid)
    assert not segment.exists()


def test_a_folder_that_cannot_be_locked_gives_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path / "lock", "this run", "Wait."):
        pass
    assert "No locks available" in capsys.readouterr().err


KILLED = f"""
import os, signal, sys, time
from pathlib import Path
from recipe.run import processes
processes.SAMPLE_SECONDS = 0.05
with processes.temporary_folder() as folder, processes.Watch(folder):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE, text=True)
    segment = child.stdout.readline().strip()
    time.sleep(1)
    print(folder, child.pid, segment, flush=True)
    {{end}}
"""


def start_run(end: str) -> tuple[subprocess.Popen, Path, int, Path]:
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(end=end)], stdout=subprocess.PIPE, text=True
    )
    folder, pid, segment = run.stdout.readline().split()
    return run, Path(folder), int(pid), Path("/dev/shm") / segment


def test_the_next_run_cleans_up_after_a_killed_one_and_leaves_a_living_one_alone():
    living, its_folder, its_pid, its_segment = start_run("time.sleep(600)")
    killed, folder, pid, segment = start_run("os.kill(os.getpid(), signal.SIGKILL)")
    try:
        killed.wait()
        assert folder.exists() and psutil.pid_exists(pid) and segment.exists()
        clean_up_killed()
        assert not (folder.exists() or psutil.pid_exists(pid) or segment.exists())
        assert its_folder.exists() and psutil.pid_exists(its_pid) and its_segment.exists()
    finally:
        living.kill()
        living.wait()
        clean_up(its_folder)
    assert not (its_folder.exists() or psutil.pid_exists(its_pid) or its_segment.exists())


def test_a_temporary_folder_has_a_short_path_and_goes():
    with temporary_folder() as folder:
        (folder / "file").touch()
        # Ray adds up to 75 characters to a Unix socket's path, which holds 107.
        assert len(str(folder)) < 30
    assert not folder.exists()
