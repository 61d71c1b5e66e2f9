"""Run symbolic mathematics in a template process and in the workers that it forks.

The template imports and warms up once. Then it forks a worker whenever the pool asks for one, so a
killed worker is replaced in milliseconds. The template has one thread and does nothing else, so
forking is safe. Template and workers die with the process that started the template.

Started by `reward.math.pool` as `python -m reward.math.worker SOCKET MEMORY_BYTES`.
"""

import json
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import Connection

from recipe.base.processes import end_with_parent
from reward.math.equality import same
from reward.math.pool import KNOWN
from reward.math.symbolic import NotUnderstoodError, same_expression


def compare(answer: str, truth: str) -> dict[str, object]:
    """Return the reply to one question: `same`, or `error` with the reason.

    The key `limit` says that the worker ran out of memory.
    """
    try:
        return {"same": same(answer, truth, same_expression)}
    except NotUnderstoodError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needed more memory than a worker may have", "limit": True}
    # Any other error of sympy is due to strange input: KNOWN has proven that sympy itself works.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def serve(questions: Connection) -> None:
    """Answer questions until the other side closes the connection."""
    while True:
        try:
            answer, truth = json.loads(questions.recv_bytes())
        except EOFError:
            return
        questions.send_bytes(json.dumps(compare(answer, truth)).encode())


def become_worker(questions: socket.socket, memory: int) -> None:
    """Limit a freshly forked process and answer questions in it."""
    end_with_parent(os.getppid())
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(Connection(questions.detach()))


def main() -> None:
    """Fork a worker for each socket that arrives and send back a descriptor of its process."""
    control = socket.socket(fileno=int(sys.argv[1]))
    memory = int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers
    for answer, truth, expected in KNOWN:
        reply = compare(answer, truth)
        if reply.get("same") is not expected:
            sys.exit(f"{answer} compared with {truth}: expected {expected}, found {reply}")
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
        except OSError:  # there is no memory, or the worker has ended already
            control.sendall(b"-")
        else:
            socket.send_fds(control, [b"+"], [process])
            os.close(process)
        questions.close()


if __name__ == "__main__":
    main()
