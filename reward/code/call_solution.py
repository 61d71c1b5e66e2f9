"""Call a solution once and write its result to stdout. This runs in the sandbox as the program.

The solution's own output goes to stderr, so nobody can take it for the result. Whatever the
solution changes in this interpreter can only spoil its own result.
"""

import json
import os
import sys


def main() -> None:
    """Read the job from stdin, run the solution's module, call its function, and end at once."""
    job = json.load(sys.stdin)
    result_descriptor = os.dup(1)
    os.dup2(2, 1)
    module = type(sys)("solution")
    sys.modules["solution"] = module
    names = module.__dict__
    exec(compile(job["setup"], "setup.py", "exec"), names)
    exec(compile(job["source"], "solution.py", "exec"), names)
    owner = module
    if isinstance(names.get("Solution"), type) and hasattr(names["Solution"], job["name"]):
        owner = names["Solution"]()
    result = getattr(owner, job["name"])(*job["arguments"])
    with open(result_descriptor, "w") as file:
        json.dump(result, file, ensure_ascii=False)
    # Do not wait for threads that are still running.
    os._exit(0)


main()
