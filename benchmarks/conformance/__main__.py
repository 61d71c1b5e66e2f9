"""Measure which aggregation rule each setting of other training frameworks is.

    scripts/install_peer.sh NAME                         # once for each of trl, skyrl, ...
    python -m benchmarks.conformance                     # measure all, about 5 minutes
    python -m benchmarks.conformance --peer trl          # measure one
    python -m benchmarks.conformance.tables measured     # print a table of the results

Each framework runs in an environment of its own, except verl, which is in this one. The result is
the weight that its training step gives to a token of each response of the fixtures.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.conformance.fixtures import SEED
from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.files import write_atomically
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance

RESULTS = ROOT / "benchmarks" / "results" / "conformance"
PEERS = ("verl", "trl", "skyrl", "openrlhf", "unsloth")
# verl asks for its platform when it is imported. The patches are for a CPU; none changes a loss.
ENVIRONMENT = {
    "verl": {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "verl_patches"},
    "openrlhf": {"DS_ACCELERATOR": "cpu"},
}


def python_of(peer: str) -> Path:
    """Return the Python in whose environment a framework is installed."""
    if peer == "verl":
        return Path(sys.executable)
    return ROOT / ".venv-peers" / peer / "bin" / "python"


def measured(peer: str) -> dict[str, Any]:
    """Return what a framework's script reports.

    Raises:
        UserError: its environment is missing, or the script failed.
    """
    python = python_of(peer)
    if not python.exists():
        raise UserError(f"{peer} has no environment. Run scripts/install_peer.sh {peer}.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        done = subprocess.run(
            [python, "-m", f"benchmarks.conformance.peers.{peer}", out],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | ENVIRONMENT.get(peer, {}),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"the script of {peer} failed:\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())


def measure(peer: str) -> None:
    """Measure one framework, and write its result."""
    result = measured(peer)
    made_by = provenance("benchmarks.conformance") | {"seed": SEED}
    # The versions are those of the framework's environment, not of this one.
    made_by["versions"] = result.pop("versions")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{peer}.json"
    write_atomically(path, json.dumps(made_by | result, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}", flush=True)


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    parser = command_parser("benchmarks.conformance", __doc__)
    parser.add_argument("--peer", choices=PEERS, help="measure this one only")
    given = parser.parse_args()
    with errors_reported():
        for peer in [given.peer] if given.peer else PEERS:
            measure(peer)


if __name__ == "__main__":
    main()
