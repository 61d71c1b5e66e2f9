"""Stand in for `python`: ask the template for a fork of itself that does what `python` would do.

    python -IS recipe/run/fork_client.py PYTHON SOCKET [-u] FILE ARGUMENTS...
    python -IS recipe/run/fork_client.py PYTHON SOCKET -c CODE ARGUMENTS...

The client stays as long as the fork. It passes signals on, and ends as the fork ends. If the client
is killed, the fork ends too. A run starts a dozen clients, so this file imports only what a bare
interpreter has at hand.
"""

import json
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def main() -> None:
    """Ask for a fork, wait for its end, and end in the same way."""
    python, address, *arguments = sys.argv[1:]
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
    pid = 0
    try:
        template.connect(address)
        text = json.dumps(request).encode()
        socket.send_fds(template, [len(text).to_bytes(8, "big")], files)
        template.sendall(text)
        pid = int.from_bytes(template.recv(8), "big")
    except OSError as error:
        print(f"the template does not answer: {error}", file=sys.stderr)
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


main()
