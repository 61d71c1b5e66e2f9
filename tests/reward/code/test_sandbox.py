import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from sandbox_stage import MISSING, adopting_orphans, child_pids

from reward.code import confine, sandbox
from reward.code.sandbox import Level, Limits, SandboxError, check, require, run, strongest_level

ROOT = Path(__file__).parents[3]
OFFERED = [level for level in Level if not MISSING[level]]


@pytest.fixture(params=OFFERED, ids=lambda level: level.name)
def level(request):
    return request.param


@pytest.fixture(autouse=True)
def _fresh_probe():
    strongest_level.cache_clear()
    yield
    strongest_level.cache_clear()


def printed(source, level, **settings):
    return run(source, b"", level=level, **settings).stdout.decode().strip()


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_program_reads_stdin_and_returns_its_outputs_and_code(level):
    source = "import sys\nprint(input())\nprint('why', file=sys.stderr)\nsys.exit(3)"
    found = run(source, "d\u00e9j\u00e0\n".encode(), level=level)
    assert found == ("exit", 3, "d\u00e9j\u00e0\n".encode(), "why\n")


def test_a_program_is_the_main_module_of_an_empty_interpreter(level):
    source = "import os, sys\nprint(__name__, sys.argv, dict(os.environ), os.listdir())"
    assert printed(source, level) == "__main__ ['solution.py'] {} []"
    assert printed("import sys; print([m for m in sys.modules if 'reward' in m])", level) == "[]"


def test_the_setup_runs_first_in_the_same_module(level):
    source = "from __future__ import annotations\nprint(prepared)"
    assert printed(source, level, setup="prepared = 5") == "5"


def test_the_order_of_a_set_is_the_same_in_every_run(level):
    source = "print(list({str(i) for i in range(50)}))"
    assert printed(source, level) == printed(source, level)


def test_only_three_descriptors_are_open(level):
    source = (
        "import os\n"
        "for number in range(1024):\n"
        "    try:\n        os.fstat(number)\n        print(number)\n"
        "    except OSError:\n        pass"
    )
    assert printed(source, level).split() == ["0", "1", "2"]


@pytest.mark.skipif(Level.NAMESPACES not in OFFERED, reason="needs namespaces")
def test_in_namespaces_a_program_sees_only_the_interpreter():
    shown = {path.split("/")[1] for path in [*confine.readable_paths(), confine.PRIVATE_FOLDER]}
    names = sorted({*os.listdir("/"), *shown})
    source = f"import os\nprint(*[n for n in {names} if os.path.exists('/' + n)])"
    assert printed(source, Level.NAMESPACES).split() == sorted(shown)
    place = printed("import os; print(os.getcwd(), os.getpid())", Level.NAMESPACES)
    assert place == f"{confine.PRIVATE_FOLDER} 1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_a_program_run_by_root_has_no_capabilities(level):
    # The program cannot see /proc, so it calls capget, version 3.
    source = (
        "import ctypes\n"
        "held = (ctypes.c_uint32 * 6)()\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "ctypes.CDLL(None).capget(header, held)\n"
        "print(any(held))"
    )
    assert printed(source, level) == str(level == Level.RLIMITS)


def test_a_program_is_ended_at_each_of_its_limits(level):
    limits = Limits(cpu_seconds=1, wall_seconds=0.3, file_bytes=1 << 16, tasks=8)
    assert run("import time; time.sleep(60)", b"", level=level, limits=limits).reason == "wall"
    threads = "import threading\nfor _ in range(20): threading.Thread(target=input).start()"
    threads = threads.replace("target=input", "target=threading.Event().wait")
    assert run(threads, b"", level=level, limits=limits).reason in ("tasks", "wall")
    assert len(run("print('x' * 10**6)", b"", level=level, limits=limits).stdout) == 1 << 16


@pytest.mark.slow
def test_the_limit_on_cpu_time_does_not_count_sleep(level):
    limits = Limits(cpu_seconds=1, wall_seconds=20)
    assert run("while True: pass", b"", level=level, limits=limits).reason == "cpu"
    slept = run("import time; time.sleep(1.5)", b"", level=level, limits=limits)
    assert slept[:2] == ("exit", 0)


def test_all_files_together_are_limited(level):
    source = (
        "import time\n"
        "for i in range(50):\n    open(f'f{i}', 'w').write('x' * 60000)\n"
        "time.sleep(30)"
    )
    found = run(source, b"", level=level, limits=Limits(file_bytes=1 << 20))
    assert found.code != 0
    assert found.reason == ("exit" if level == Level.NAMESPACES else "files")


def test_files_that_come_and_go_do_not_disturb_the_count_of_bytes(level):
    source = (
        "import os, time\n"
        "end = time.monotonic() + 0.5\n"
        "while time.monotonic() < end:\n"
        "    for i in range(50):\n        open(f'f{i}', 'w').close()\n"
        "    for i in range(50):\n        os.unlink(f'f{i}')"
    )
    assert run(source, b"", level=level)[:2] == ("exit", 0)


def test_many_threads_can_run_programs_at_the_same_time(level):
    found = {}

    def work(i):
        found[i] = [printed(f"print({i} * {j})", level) for j in range(4)]

    descriptors = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [str(i * j) for j in range(4)] for i in range(6)}
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("victim", ["grader", "keeper"])
def test_a_program_ends_if_its_grader_or_its_keeper_is_killed(victim, level, tmp_path):
    started = tmp_path / "started"
    script = (
        "import sys, tempfile\n"
        "from reward.code.sandbox import Level, run\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        f"open({str(started)!r}, 'w').close()\n"
        f"run('import time; time.sleep(300)', b'', level=Level({int(level)}))\n"
    )
    with adopting_orphans():
        before = child_pids()
        grader = subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        try:
            programs = wait_for_programs(grader.pid)
            keeper = children(grader.pid)[0]
            os.kill(grader.pid if victim == "grader" else keeper, signal.SIGKILL)
            grader.wait(20)
            wait_until(lambda: all(is_gone(pid) for pid in [keeper, *programs]))
        finally:
            grader.kill()
            grader.wait()
        for pid in child_pids() - before:
            os.waitpid(pid, 0)
    if victim == "grader":
        assert [path.name for path in tmp_path.iterdir()] == ["started"]


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_for_programs(grader):
    def programs():
        return [pid for keeper in children(grader) for pid in children(keeper)]

    wait_until(programs)
    time.sleep(0.2)
    return programs()


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_interpreter_that_cannot_start_is_an_error(level, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SandboxError, match="/nowhere/python"):
        run("pass", b"", level=level)


@pytest.mark.parametrize(
    "start", ["raise OSError('no fork')", "import os; os.kill(os.getpid(), 9)"]
)
def test_a_keeper_that_fails_is_an_error(start, level, monkeypatch):
    monkeypatch.setattr(sandbox, "_START", start)
    with pytest.raises(SandboxError, match="could not be run at level"):
        run("pass", b"", level=level)


def test_a_keeper_that_hangs_is_killed_and_is_an_error(level, monkeypatch):
    monkeypatch.setattr(sandbox, "_START", "import time; time.sleep(300)")
    monkeypatch.setattr(sandbox, "GRACE_SECONDS", 0.3)
    with adopting_orphans():
        before = child_pids()
        with pytest.raises(SandboxError, match="silent for"):
            run("pass", b"", level=level, limits=Limits(wall_seconds=0.1))
        assert child_pids() == before


def test_a_check_finds_limits_too_tight_for_any_program(level):
    check(level)
    with pytest.raises(SandboxError, match="memory_bytes=1000"):
        check(level, Limits(memory_bytes=1000))


def test_a_check_forgives_a_busy_machine_that_overruns_once(level, monkeypatch):
    ends = iter([sandbox.Ended("wall", -9, b"", "")])

    def busy(*args, **kwargs):
        return next(ends, None) or run(*args, **kwargs)

    monkeypatch.setattr(sandbox, "run", busy)
    check(level)


def test_every_tried_escape_succeeds_without_isolation():
    assert len(sandbox._escapes(Level.RLIMITS).split("; ")) >= 7


def test_a_level_does_not_count_if_a_program_can_escape(monkeypatch):
    monkeypatch.setattr(sandbox, "_escapes", lambda level: "open a socket")
    assert strongest_level()[0] == Level.RLIMITS
    with pytest.raises(SandboxError, match=r"offers level RLIMITS.*could open a socket"):
        require(Level.LANDLOCK)
    assert require(Level.RLIMITS) == Level.RLIMITS


def test_an_error_names_the_level_that_fails_and_the_reason(monkeypatch):
    def broken(level, limits=None):
        if level == Level.NAMESPACES:
            raise SandboxError("unshare: not permitted")

    monkeypatch.setattr(sandbox, "check", broken)
    monkeypatch.setattr(sandbox, "_escapes", lambda level: "")
    assert strongest_level()[0] == Level.LANDLOCK
    with pytest.raises(SandboxError, match=r"NAMESPACES: unshare: not permitted"):
        require(Level.NAMESPACES)


@pytest.mark.skipif(len(OFFERED) < 3 or not shutil.which("unshare"), reason="needs all levels")
def test_landlock_works_where_user_namespaces_are_forbidden():
    script = "from reward.code.sandbox import *; print(strongest_level()[0].name); check(Level(1))"
    command = f"echo 0 > /proc/sys/user/max_user_namespaces; {sys.executable} -c '{script}'"
    found = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == "LANDLOCK", found.stderr


def test_the_kernel_reports_its_version_of_landlock():
    assert confine.landlock_version() >= (1 if Level.LANDLOCK in OFFERED else 0)
    assert ctypes.sizeof(confine._SockFprog) == 16


def test_no_working_folder_is_left_behind(level, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run("import os; os.mkdir('d') if os.getpid() else 0; open('f', 'w')", b"", level=level)
    assert list(tmp_path.iterdir()) == []
