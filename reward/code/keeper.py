"""Start a confined program, watch it, and end it with all its processes.

The keeper is a process between the grader and the program, in a fresh interpreter. So the grader,
which may have many threads, never forks and never limits itself. The interpreter starts with
`-S -P`, without site packages, so import only this folder and the standard library here.

The job names some descriptors. The others are: 0, which the grader holds open and which closes if
the grader dies or wants an end; 1, for the report; 2, for an error of this machinery and later for
the program's stderr.
"""

import builtins
import marshal
import os
import select
import sys
import time
from contextlib import suppress

from reward.code import confine

# Seconds between two counts of a running program's threads and files.
WATCH_SECONDS = 0.05
_SIGKILL = 9


def main() -> None:
    """Run the job whose descriptor is the last argument. Only the program's process returns."""
    with open(int(sys.argv[-1]), "rb") as file:
        job = marshal.load(file)
    if job["level"] == "namespaces":
        folder = None
        confine.enter_user_and_pid_namespaces()
    else:
        folder = f"{job['temporary']}/program-{os.getpid()}-{time.time_ns()}"
        os.mkdir(folder, 0o700)
    confine.adopt_orphans()
    ready, started = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(ready)
        _become_program(job, folder, started)
        return
    os.close(started)
    try:
        reason = _watch(program, ready, folder, job)
    finally:
        status, cpu_seconds = _end_all(program)
        if folder is not None:
            _remove(folder)
    marshal.dump((reason, status, cpu_seconds), sys.stdout.buffer)
    sys.stdout.flush()
    os._exit(0)


def _become_program(job: dict, folder: str | None, started: int) -> None:
    """Confine this process and run the program in it. Write an earlier error to `started`."""
    try:
        _confine(job, folder)
        os.dup2(job["stdin"], 0)
        os.dup2(job["stdout"], 1)
        # If the keeper has ended already, no signal will come, but this write fails.
        confine.die_with_parent()
        os.write(started, b"ok")
    except Exception as error:
        os.write(started, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.closerange(3, max(started, *job["descriptors"]) + 1)
    _run(job["setup"], job["source"])


def _confine(job: dict, folder: str | None) -> None:
    os.setsid()
    confine.limit_resources(
        memory_bytes=job["memory_bytes"],
        cpu_seconds=job["cpu_seconds"],
        file_bytes=job["file_bytes"],
    )
    if folder is None:
        confine.enter_private_root(job["file_bytes"])
        folder = confine.PRIVATE_FOLDER
    os.chdir(folder)
    if job["level"] == "rlimits":
        return
    confine.drop_capabilities()
    version = confine.landlock_version()
    if version or job["level"] == "landlock":
        confine.enter_landlock(version, folder)
    confine.enter_seccomp()


def _run(setup: str, source: str) -> None:
    """Run the program as the main module. It can import nothing of this machinery."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "reward"]:
        del sys.modules[name]
    sys.path.remove(sys.argv[1])
    sys.argv[:] = ["solution.py"]
    os.environ.clear()
    # Programs rely on these two names. `site` defines them, but it is not loaded.
    builtins.exit = builtins.quit = sys.exit
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    exec(compile(setup, "setup.py", "exec"), module.__dict__)
    exec(compile(source, "solution.py", "exec"), module.__dict__)


def _watch(program: int, ready: int, folder: str | None, job: dict) -> str:
    """Wait and return why the program ends: exit, wall, tasks, files, or abandoned by the grader.

    Raises:
        RuntimeError: the program could not be confined, so it did not run.
    """
    if (answer := os.read(ready, 4096)) != b"ok":
        raise RuntimeError(answer.decode() or "the process ended while it was being confined")
    end = time.monotonic() + job["wall_seconds"]
    ended = os.pidfd_open(program)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(0, 0)
    while (left := end - time.monotonic()) > 0:
        changed = [descriptor for descriptor, _ in poll.poll(1000 * min(left, WATCH_SECONDS))]
        if ended in changed:
            return "exit"
        if changed:
            return "abandoned"
        if _num_threads(program) > job["tasks"]:
            return "tasks"
        if folder is not None and _total_bytes(folder) > job["file_bytes"]:
            return "files"
    return "wall"


def _num_threads(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The program can choose the name before the last parenthesis.
        return int(file.read().rpartition(b")")[2].split()[17])


def _total_bytes(folder: str) -> int:
    """Return the bytes of a folder's files. Each counts as a block at least, even an empty one."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            # The program may remove a file between the two calls.
            with suppress(FileNotFoundError):
                total += max(entry.stat(follow_symlinks=False).st_size, confine.BLOCK_BYTES)
    return total


def _end_all(program: int) -> tuple[int, float]:
    """Kill the program and its processes; return its wait status and its CPU seconds."""
    status, cpu_seconds = 0, 0.0
    while True:
        with open("/proc/thread-self/children") as file:
            # Children of the processes killed here become children of this process.
            for child in file.read().split():
                os.kill(int(child), _SIGKILL)
        try:
            pid, found, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return status, cpu_seconds
        if pid == program:
            status, cpu_seconds = found, usage.ru_utime + usage.ru_stime


def _remove(folder: str) -> None:
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(parent, name))
        for name in folders:
            path = os.path.join(parent, name)
            os.unlink(path) if os.path.islink(path) else os.rmdir(path)
    os.rmdir(folder)
