"""The processes in which symbolic mathematics runs: a template, and the workers forked from it.

The template imports and warms up once, then forks a worker whenever it is asked to, so that a
worker that was killed is replaced in milliseconds. It has one thread and does nothing else, so
forking is safe. Both die with the process that started the template.

Run by `reward.math.pool` as `python -m reward.math.worker SOCKET MEMORY_BYTES`.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import Connection

from reward.math.equality import same
from reward.math.pool import KNOWN
from reward.math.symbolic import NotUnderstoodError, same_expression

PR_SET_PDEATHSIG = 1


def compare(answer: str, truth: str) -> dict[str, object]:
    """The reply to one question: `same`, or `error` with what the answer's fault is.

    `limit` says that the worker ran out of its memory.
    """
    try:
        return {"same": same(answer, truth, same_expression)}
    except NotUnderstoodError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needed more memory than a worker may have", "limit": True}
    # Whatever sympy raises on strange input is the answer's fault: KNOWN has proven sympy itself.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def serve(questions: Connection) -> None:
    """Answer questions until the other side hangs up."""
    while True:
        try:
            answer, truth = json.loads(questions.recv_bytes())
        except EOFError:
            return
        questions.send_bytes(json.dumps(compare(answer, truth)).encode())


def become_worker(questions: socket.socket, memory: int) -> None:
    """Give a freshly forked process its limits, and serve."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(questions.detach()))


def main() -> None:
    """Fork a worker for each socket that arrives; hand back a descriptor of its process."""
    control = socket.socket(fileno=int(sys.argv[1]))
    memory = int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers
    for answer, truth, expected in KNOWN:
        reply = compare(answer, truth)
        if reply.get("same") is not expected:
            sys.exit(f"{answer} and {truth}: expected {expected}, got {reply}")
    control.sendall(b"+")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        questions = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
            if pid == 0:
                control.close()
                try:
                    become_worker(questions, memory)
                finally:
                    os._exit(0)
            process = os.pidfd_open(pid)
        except OSError:  # no memory, or the worker is dead already
            control.sendall(b"-")
        else:
            socket.send_fds(control, [b"+"], [process])
            os.close(process)
        questions.close()


if __name__ == "__main__":
    main()
