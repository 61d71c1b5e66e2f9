"""Make the small model and data of the CPU demo once, and keep them in the user's cache folder."""

import fcntl
import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from recipe.base.errors import UserError
from recipe.base.paths import ROOT, cache

SOURCES = ("scripts/arithmetic.py", "scripts/tiny_tokenizer.py", "scripts/tiny_model.py")


def folder(task: str) -> str:
    """Return the folder of the model and data of `task`, named by a hash of their sources."""
    made_by = [task, *(version(package) for package in ("torch", "transformers", "tokenizers"))]
    made_by += [(ROOT / source).read_text() for source in SOURCES]
    digest = hashlib.sha256("\0".join(made_by).encode()).hexdigest()[:12]
    return str(cache() / f"{task}-{digest}")


def make(task: str) -> None:
    """Make the model and data of `task` unless they exist.

    Raises:
        UserError: the script that makes them failed.
    """
    if Path(folder(task)).exists():
        return
    command = [sys.executable, "-m", "scripts.tiny_model", "--task", task, "--out", folder(task)]
    cache().mkdir(parents=True, exist_ok=True)
    # Two at a time would wait for each other's threads, minutes instead of seconds.
    with (cache() / "making.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = (
            not Path(folder(task)).exists()
            and subprocess.run(command, cwd=ROOT, check=False).returncode
        )
    if failed:
        raise UserError(
            f"The demo's model could not be made; see above. "
            f"Run the script alone: {' '.join(command)}"
        )
