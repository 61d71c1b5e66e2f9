import multiprocessing
import os
import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import psutil

from recipe.processes import mapped_segments, no_leftovers, proportional_kib, temporary_folder

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


def test_processes_and_segments_of_a_run_are_gone_after_it():
    with no_leftovers():
        child, segment = start_child()
        assert segment.exists()
    assert not psutil.pid_exists(child.pid)
    assert not segment.exists()


def test_they_are_gone_after_an_error_too():
    try:
        with no_leftovers():
            child, segment = start_child()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not psutil.pid_exists(child.pid)
    assert not segment.exists()


def test_a_segment_that_somebody_else_still_uses_stays():
    child, segment = start_child()
    mine = shared_memory.SharedMemory(name=segment.name)
    try:
        with no_leftovers():
            pass
        assert not psutil.pid_exists(child.pid)
        assert segment.exists()
    finally:
        mine.close()
        segment.unlink(missing_ok=True)


def test_a_semaphore_is_found_though_it_is_mapped_under_another_name():
    semaphore = multiprocessing.get_context("spawn").Semaphore()
    inodes = {path.stat().st_ino for path in Path("/dev/shm").glob("sem.mp-*")}
    assert mapped_segments([psutil.Process()]) & inodes
    del semaphore


def test_memory_of_a_process_is_counted_and_of_a_gone_one_is_zero():
    assert proportional_kib(os.getpid()) > 10_000
    child = subprocess.Popen(["true"])
    child.wait()
    assert proportional_kib(child.pid) == 0


def test_a_temporary_folder_has_a_short_path_and_goes():
    with temporary_folder() as folder:
        (folder / "file").touch()
        # Ray adds up to 75 characters to a Unix socket's path, which holds 107.
        assert len(str(folder)) < 30
    assert not folder.exists()
