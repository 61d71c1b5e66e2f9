"""Stand in for `python`: ask the template for a fork of itself that does what `python` would do.

    python -IS recipe/run/fork_client.py PYTHON SOCKET [-u] FILE ARGUMENTS...
    python -IS recipe/run/fork_client.py PYTHON SOCKET -c CODE ARGUMENTS...
    python -IS recipe/run/fork_client.py PYTHON MODULE,MODULE [-u] FILE ARGUMENTS...

The last form is for a worker of a Ray cluster. The first client of a job on a node starts the
template, which imports the modules.

The client stays as long as the fork. It passes signals on, and ends as the fork ends. If the client
is killed, the fork ends too. A run starts a dozen clients, so this file imports only what a bare
interpreter has at hand.
"""

import json
import os
import signal
import socket
import sys
import time

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
SECONDS_TO_START = 30


def main() -> None:
    """Ask for a fork, wait for its end, and end in the same way."""
    python, place, *arguments = sys.argv[1:]
    # The listing opens a file of its own.
    listed = (int(name) for name in os.listdir("/proc/self/fd"))
    files = [number for number in listed if os.path.exists(f"/proc/self/fd/{number}")]
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "niceness": os.nice(0),
        "files": files,
    }
    template = socket.socket(socket.AF_UNIX)
    address, pid = place, 0
    try:
        if os.sep not in place:
            address = address_of_job(arguments)
            start_once(python, address, place)
        template.connect(address)
        text = json.dumps(request).encode()
        socket.send_fds(template, [len(text).to_bytes(8, "big")], files)
        template.sendall(text)
        pid = int.from_bytes(template.recv(8), "big")
    except (OSError, LookupError) as error:
        print(f"the template does not answer: {error!r}", file=sys.stderr)
    if not pid:
        # It has ended. Without this worker, Ray would try to start it again and again.
        if os.path.exists(f"{address}.log"):
            with open(f"{address}.log") as log:
                print("the template's last words:", log.read()[-2000:], file=sys.stderr)
        print("this process imports for itself", file=sys.stderr, flush=True)
        os.execv(python, [python, *arguments])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    # Others may see the end of the fork by one of its files, so nobody else may hold them.
    for number in files:
        os.close(number)
    status = template.recv(8)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "big")) if status else 1
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def address_of_job(arguments: list[str]) -> str:
    """Return the socket of the template of this Ray job on this node.

    It lies beside Ray's own sockets and is removed with them. Its path is as long as that of Ray's
    `plasma_store`, because the path of a socket has at most 107 characters.

    Raises:
        LookupError: Ray has not said which job and node these are.
    """
    options = dict(word.split("=", 1) for word in arguments if "=" in word)
    raylet = options["--raylet-name"]
    return os.path.join(os.path.dirname(raylet), f"t-{os.environ['RAY_JOB_ID']}", "t")


def start_once(python: str, address: str, modules: str) -> None:
    """Start the job's template on this node, unless another client has.

    Raises:
        OSError: the folder of the socket belongs to another user, or no socket appears in it.
    """
    folder = os.path.dirname(address)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if os.stat(folder).st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user") from None
        end = time.monotonic() + SECONDS_TO_START
        while not os.path.exists(address) and time.monotonic() < end:
            time.sleep(0.05)
        return
    import subprocess

    server = socket.socket(socket.AF_UNIX)
    # Under its name only once it listens, since others wait for the name.
    server.bind(f"{address}.part")
    server.listen(64)
    os.rename(f"{address}.part", address)
    # The template ends with the node's raylet.
    raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    with open(f"{address}.log", "wb") as log:
        subprocess.Popen(
            [python, "-m", "recipe.run.template", address, str(server.fileno()), modules],
            env={"OMP_NUM_THREADS": "1"} | os.environ,
            stdin=raylet,
            stdout=log,
            stderr=log,
            pass_fds=[server.fileno()],
            start_new_session=True,
        )
    os.close(raylet)
    server.close()


main()
