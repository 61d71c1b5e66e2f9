"""verl leaves out the weight-sync engine of Ascend NPUs, which imports vLLM into every process.

Upstream  verl 0.9.1, verl/checkpoint_engine/__init__.py
Why       it tries the engines of all accelerators, and `hccl_checkpoint_engine` imports vLLM before
          it could fail: about two seconds in each process that has no other use for vLLM.
What      importing that module fails at once, which verl notes as it does for other engines.
Remove    once verl imports the engine that the config names, or a CPU platform leaves this one out.
"""

import sys

MODULE = "verl.checkpoint_engine.hccl_checkpoint_engine"


def apply() -> None:
    """Let the import of the module raise ModuleNotFoundError."""
    sys.modules.setdefault(MODULE, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
