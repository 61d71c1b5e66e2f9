import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.reward_throughput import HANGS
from reward.errors import RewardError
from reward.math import pool as pool_module
from reward.math.pool import KNOWN, Pool


def children(parent):
    """Return the ids of all processes below a process, from the kernel."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *children(child)]
    return found


def processes(pool):
    """Return the process ids of a pool's template and its workers."""
    template = pool._template.process.pid
    return [template, *children(template)]


def wait_until_gone(pids):
    """Wait until all these processes have ended."""
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {pids}")


def test_the_process_that_asks_does_not_import_sympy():
    program = "import sys, reward.score; assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_questions_are_decided_or_refused():
    with Pool(workers=1) as pool:
        assert all(pool.ask(left, right).same is expected for left, right, expected in KNOWN)
        refused = pool.ask("9^{9^{9^9}}", "1")
        assert (refused.same, refused.over_limit) == (None, False)
        assert "exponent" in refused.error


def test_a_worker_that_misses_its_deadline_is_killed_and_replaced():
    with Pool(workers=1, deadline=1.0) as pool:
        pool.ask(*KNOWN[0][:2])
        before = processes(pool)
        reply = pool.ask(HANGS, "1")
        assert (reply.same, reply.over_limit) == (None, True)
        assert "1 s of CPU time" in reply.error
        assert pool.ask(*KNOWN[0][:2]).same
        after = processes(pool)
        assert len(after) == len(before)
        assert set(before) - set(after)
    assert not any(Path(f"/proc/{pid}").exists() for pid in before + after)


def test_a_worker_that_waits_for_the_processor_is_not_out_of_time():
    with Pool(workers=1, deadline=1.0) as pool, ThreadPoolExecutor(1) as executor:
        pool.ask("x", "y")
        (worker,) = children(pool._template.process.pid)
        os.kill(worker, signal.SIGSTOP)
        reply = executor.submit(pool.ask, *KNOWN[0][:2])
        time.sleep(2.0)
        os.kill(worker, signal.SIGCONT)
        assert reply.result().same
        assert children(pool._template.process.pid) == [worker]


def test_a_worker_that_gets_no_processor_ends_in_wall_time():
    with Pool(workers=1, deadline=0.5) as pool:
        pool.ask("x", "y")
        (worker,) = children(pool._template.process.pid)
        os.kill(worker, signal.SIGSTOP)
        reply = pool.ask(*KNOWN[0][:2])
        assert (reply.same, reply.over_limit) == (None, True)
        assert "2.5 s of wall time" in reply.error
        assert pool.ask(*KNOWN[0][:2]).same


def test_a_worker_out_of_memory_says_so_and_the_next_question_is_answered():
    with Pool(workers=1, deadline=60.0, memory=100 << 20) as pool:
        reply = pool.ask("(2^{9999})^{9999}", "1")
        assert (reply.same, reply.over_limit) == (None, True)
        assert pool.ask(*KNOWN[0][:2]).same


def test_threads_wait_for_a_worker_and_each_gets_its_own_reply():
    with Pool(workers=2) as pool, ThreadPoolExecutor(16) as executor:
        replies = list(
            executor.map(
                lambda i: pool.ask(f"{i}\\sqrt{{2}}", f"\\sqrt{{{2 * i * i + i % 2}}}"),
                range(1, 81),
            )
        )
        assert [reply.same for reply in replies] == [i % 2 == 0 for i in range(1, 81)]
        assert len(processes(pool)) == 3  # the template and two workers


def test_a_worker_is_replaced_after_its_number_of_questions(monkeypatch):
    monkeypatch.setattr(pool_module, "QUESTIONS_PER_WORKER", 3)
    with Pool(workers=1) as pool:
        seen = set()
        for _ in range(9):
            pool.ask("x", "y")
            seen |= set(processes(pool))
        assert len(seen) == 1 + 3


def test_a_killed_worker_is_replaced_and_its_question_is_asked_again():
    with Pool(workers=1) as pool:
        pool.ask("x", "y")
        (worker,) = children(pool._template.process.pid)
        os.kill(worker, signal.SIGKILL)
        assert pool.ask(*KNOWN[0][:2]).same


def test_a_killed_template_is_replaced():
    with Pool(workers=1) as pool:
        pool.ask("x", "y")
        pool._template.process.kill()
        pool._template.process.wait()
        assert pool.ask(*KNOWN[0][:2]).same


def test_an_answer_that_ends_every_worker_gets_an_over_limit_reply(monkeypatch):
    asked = []

    def ask(self, answer, truth, deadline):
        asked.append(answer)
        if answer == "fatal":
            raise EOFError
        return ORIGINAL(self, answer, truth, deadline)

    ORIGINAL = pool_module._Worker.ask
    monkeypatch.setattr(pool_module._Worker, "ask", ask)
    with Pool(workers=1) as pool:
        reply = pool.ask("fatal", "1")
        assert (reply.same, reply.over_limit) == (None, True)
        assert asked == ["fatal", "fatal", *(left for left, _, _ in KNOWN)]


def test_workers_that_die_on_every_question_are_an_error_and_no_verdict(monkeypatch):
    def ask(*_):
        raise EOFError

    monkeypatch.setattr(pool_module._Worker, "ask", ask)
    with Pool(workers=1) as pool, pytest.raises(RewardError, match="die at once"):
        pool.ask("x", "y")


def test_a_broken_installation_is_an_error_with_its_message(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken installation')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pool_module, "ROOT", f"{tmp_path}{os.pathsep}{pool_module.ROOT}")
    with Pool(workers=1) as pool, pytest.raises(RewardError, match="broken installation"):
        pool.ask("x", "y")


@pytest.fixture
def can_be_interrupted():
    """Enable Ctrl-C, which processes in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_reply_to_an_interrupted_question_never_reaches_the_next_one(can_be_interrupted):
    def interrupt():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    with Pool(workers=1, deadline=60.0) as pool:
        pool.ask("x", "y")
        timer = threading.Thread(target=interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pool.ask(HANGS, "1")
        timer.join()
        assert pool.ask(*KNOWN[0][:2]).same


def test_a_forked_process_cannot_use_the_pool_of_its_parent():
    with Pool(workers=1) as pool:
        pid = os.fork()
        if pid == 0:
            try:
                pool.ask("x", "y")
            except RewardError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_no_process_is_left_after_a_kill_while_a_worker_hangs():
    program = f"""
        import threading
        from reward.math.pool import Pool
        pool = Pool(workers=1, deadline=600.0)
        pool.ask("x", "y")
        threading.Thread(target=pool.ask, args=({HANGS!r}, "1"), daemon=True).start()
        print("asked", flush=True)
        threading.Event().wait()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "asked\n"
        time.sleep(0.5)
        below = children(process.pid)
        assert len(below) == 2
        process.kill()
    wait_until_gone(below)


def test_a_closed_pool_refuses_new_questions_and_waiting_threads():
    pool = Pool(workers=1, deadline=60.0)
    pool.ask("x", "y")
    below = processes(pool)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(pool.ask, HANGS, "1")
        time.sleep(0.5)
        pool.close()
        with pytest.raises(RewardError, match="closed"):
            waiting.result(timeout=30)
    with pytest.raises(RewardError, match="closed"):
        pool.ask("x", "y")
    pool.close()
    wait_until_gone(below)


def test_a_worker_ignores_modules_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "sympy.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    with Pool(workers=1) as pool:
        assert pool.ask(*KNOWN[0][:2]).same
