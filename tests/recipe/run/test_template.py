"""What Ray and multiprocessing rely on when a fork of the template stands in for `python`."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from recipe.run.cluster import IMPORTED
from recipe.run.processes import temporary_folder
from recipe.run.template import Template, client

SPAWN = """
import multiprocessing
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=print, args=["spawned"])
    child.start()
    child.join()
    parent = multiprocessing.get_context("spawn").Process(target=exit, args=[7])
    parent.start()
    parent.join()
    print(child.exitcode, parent.exitcode)
"""


@pytest.fixture(scope="module")
def template():
    with temporary_folder() as folder:
        # A module that says when it is imported: by the template alone.
        (folder / "heavy.py").write_text(
            "import os, tempfile\nIMPORTED_BY = os.getpid()\ntempfile.gettempdir()\n"
            "import ray\n@ray.remote\nclass Actor:\n    pass\n"
        )
        environment = os.environ | {"PYTHONPATH": f"{folder}:{os.getcwd()}"}
        with Template(folder, ["numpy", "heavy"], environment) as template:
            yield template


def start(template: Template, *words: str, **given) -> subprocess.Popen[str]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | given
    return subprocess.Popen([*shlex.split(template.command), *words], **given)


def result_of(template: Template, *words: str, **given) -> str:
    process = start(template, *words, **given)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return said


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_fork_has_what_the_template_imported(template):
    code = "import os, heavy; print(heavy.IMPORTED_BY, os.getppid())"
    template_pid, parent = result_of(template, "-c", code).split()
    assert template_pid == parent == str(template.process.pid)


def ray_id_of(template: Template) -> str:
    return result_of(
        template, "-c", "from ray import ObjectRef; print(ObjectRef.from_random().hex())"
    )


def test_forks_draw_different_ids_of_ray(template):
    assert ray_id_of(template) != ray_id_of(template)


@pytest.mark.slow
def test_so_do_forks_with_all_that_a_run_imports():
    with temporary_folder() as folder:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        with Template(folder, IMPORTED, environment) as template:
            assert ray_id_of(template) != ray_id_of(template)


def test_a_fork_has_the_arguments_environment_folder_and_files_of_its_client(template, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps([sys.argv, sys.path[0], __name__, dict(os.environ), os.getcwd(),"
        " sys.stdin.read(), os.nice(0)]))\n"
        "os.write(int(sys.argv[1]), b'through the pipe')\n"
    )
    read, write = os.pipe()
    process = start(
        template,
        "-u",
        str(script),
        str(write),
        stdin=subprocess.PIPE,
        env={"ONLY": "this"},
        cwd=tmp_path,
        pass_fds=[write],
        preexec_fn=lambda: os.nice(3),
    )
    os.close(write)
    argv, path, name, environment, folder, said, nice = json.loads(
        process.communicate("into stdin", timeout=60)[0]
    )
    assert argv == [str(script), str(write)]
    assert (path, name, folder, said) == (str(tmp_path), "__main__", str(tmp_path), "into stdin")
    assert environment["ONLY"] == "this" and "HOME" not in environment
    assert nice == os.nice(0) + 3
    # The pipe ends when the fork does: nobody else has it.
    assert os.read(read, 100) == b"through the pipe"
    assert os.read(read, 100) == b""
    os.close(read)


@pytest.mark.parametrize(("code", "expected"), [("exit(3)", 3), ("1 / 0", 1)])
def test_a_client_ends_with_the_status_of_its_fork(code, expected, template):
    process = start(template, "-c", code)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == expected
    assert ("ZeroDivisionError" in error) == (code == "1 / 0")


def test_a_signal_to_the_client_reaches_the_fork(template):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = start(template, "-c", code)
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 5


def test_a_fork_that_is_killed_takes_its_client_with_it_and_the_other_way_round(template):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    process = start(template, "-c", code)
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL

    process = start(template, "-c", code)
    fork = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait(60)
    wait_until(lambda: not fork.is_running() or fork.status() == psutil.STATUS_ZOMBIE)


def test_temporary_files_of_a_fork_are_where_its_client_says(template, tmp_path):
    code = "import tempfile; print(tempfile.gettempdir())"
    said = result_of(template, "-c", code, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert said.strip() == str(tmp_path)


def test_forks_draw_other_random_numbers_than_their_siblings(template):
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    assert (
        len({number for _ in range(2) for number in result_of(template, "-c", code).split()}) == 4
    )


def test_multiprocessing_spawns_forks_too(template, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    assert result_of(template, str(script)) == "spawned\n0 7\n"


@pytest.mark.parametrize("sent", [b"", (100).to_bytes(8, "big") + b"{"])
def test_a_client_that_ends_while_it_asks_harms_no_other(sent, template):
    address = shlex.split(template.command)[-1]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.sendall(sent)
    parent = result_of(template, "-c", "import os; print(os.getppid())")
    assert int(parent) == template.process.pid


def test_forks_end_with_the_template_and_later_ones_import_for_themselves():
    with temporary_folder() as folder:
        with Template(folder, ["json"], dict(os.environ)) as template:
            code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
            process = start(template, "-c", code)
            fork = psutil.Process(int(process.stdout.readline()))
        assert process.wait(60) == 1
        wait_until(lambda: not fork.is_running())
        late = start(template, "-c", "print('here')")
        said, error = late.communicate(timeout=60)
        assert said == "here\n"
        assert "this process imports for itself" in error


def test_a_template_that_cannot_import_says_why_in_its_clients(tmp_path):
    with temporary_folder() as folder, Template(folder, ["nope"], dict(os.environ)) as template:
        template.process.wait(60)
        error = start(template, "-c", "print()").communicate(timeout=60)[1]
        assert "No module named 'nope'" in error


@pytest.fixture
def raylet(tmp_path):
    """A process in the place of a node's raylet, and the environment of its workers."""
    raylet = subprocess.Popen(["sleep", "600"])
    environment = os.environ | {"RAY_JOB_ID": "ab", "RAY_RAYLET_PID": str(raylet.pid)}
    yield raylet, environment, tmp_path / "t-ab"
    raylet.kill()
    raylet.wait()


def ask(environment: dict[str, str], folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Be a worker whose raylet has its sockets beside `folder`."""
    option = f"--raylet-name={folder.parent}/raylet"
    command = [*shlex.split(client("json,csv")), "-c", code, option]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_first_worker_of_a_job_on_a_node_starts_a_template_that_ends_with_the_node(raylet):
    raylet, environment, folder = raylet
    code = "import os; print(os.getppid())"
    with ThreadPoolExecutor(4) as threads:
        workers = threads.map(lambda _: ask(environment, folder, code).stdout, range(4))
        [template] = {int(said) for said in workers}
    assert "recipe.run.template" in psutil.Process(template).cmdline()
    other = environment | {"RAY_JOB_ID": "cd"}
    assert int(ask(other, folder, code).stdout) != template
    raylet.kill()
    raylet.wait()
    wait_until(lambda: not psutil.pid_exists(template) and not folder.exists())


def test_a_folder_of_another_user_is_not_trusted(raylet):
    _, environment, folder = raylet
    if os.getuid():
        pytest.skip("only root can make one")
    folder.mkdir()
    os.chown(folder, 1234, 1234)
    done = ask(environment, folder, "print('here')")
    assert done.stdout == "here\n"
    assert "belongs to another user" in done.stderr


def test_a_worker_that_does_not_know_its_job_imports_for_itself(raylet):
    _, environment, folder = raylet
    del environment["RAY_JOB_ID"]
    done = ask(environment, folder, "print('here')")
    assert done.stdout == "here\n"
    assert "this process imports for itself" in done.stderr


def test_a_template_ends_when_its_starter_is_killed(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from recipe.run.template import Template\n"
        "template = Template(Path(sys.argv[1]), ['json'], dict(os.environ))\n"
        "print(template.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with temporary_folder() as folder:
        command = [sys.executable, "-c", code, str(folder)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60).stdout
        wait_until(lambda: not psutil.pid_exists(int(said)))
