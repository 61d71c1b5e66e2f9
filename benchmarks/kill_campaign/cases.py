"""Train where the disk fills up, or where W&B has no server; then mend that, and start again.

    python -m benchmarks.kill_campaign.cases OUTPUTS REFERENCE RANKS BYTES

The command runs within a mount namespace.

`benchmarks.kill_campaign` runs this command for the case of a full disk.
"""

import json
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.kill_campaign.run import Run
from recipe.base.command import command_parser

FULL, REFUSED, SILENT = "full disk", "W&B refuses connections", "W&B does not answer"
CASES = (FULL, REFUSED, FULL, SILENT)
# The disk's size once there is room again.
ENOUGH = "1g"


def meet(number: int, run: Run, reference: Path, seed: int) -> dict[str, Any]:
    """Meet trouble `number` of `CASES`.

    Returns:
        the exit `code` of the first start, its `seconds` and what it `said`, and what `Run.judged`
        returns of the second start; or why the case was `left_out`.
    """
    if CASES[number] == FULL:
        return full_disk(run, reference, random.Random(f"{seed} case {number}"))
    # Nothing listens on port 9. This server takes connections, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = 9 if CASES[number] == REFUSED else silent.getsockname()[1]
        online = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40}
        first = first_start(run, WANDB_BASE_URL=f"http://127.0.0.1:{port}", **online)
    return first | run.judged(run.trained(), reference)


def first_start(run: Run, **environment: str) -> dict[str, Any]:
    """Return how a start into trouble ended: `code`, `seconds`, `said`."""
    started = time.monotonic()
    code = run.trained(**environment)
    return {"code": code, "seconds": round(time.monotonic() - started), "said": run.said()}


def full_disk(run: Run, reference: Path, drawn: random.Random) -> dict[str, Any]:
    """Train on a disk that has room for some checkpoints, and for a part of the next."""
    run.outputs.mkdir(parents=True, exist_ok=True)
    # What is mounted in a namespace of its own goes with it.
    alone = ["unshare", "--mount"]
    mount = [*alone, "mount", "-t", "tmpfs", "tmpfs", str(run.outputs)]
    if not shutil.which("unshare"):
        return {"left_out": "there is no command unshare here"}
    tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    if tried.returncode:
        return {"left_out": f"nothing can be mounted here ({tried.stderr.strip()})"}
    checkpoints = sorted(reference.glob("checkpoints/global_step_*"))
    one = size(checkpoints[0])
    beside = size(reference) - one * len(checkpoints)
    fit = drawn.randrange(1, len(checkpoints) - 1) + drawn.random()
    arguments = [str(x) for x in (run.outputs, reference, run.ranks, beside + int(fit * one))]
    command = [*alone, sys.executable, "-m", "benchmarks.kill_campaign.cases", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"checkpoints": round(fit, 2), **json.loads(done.stdout)}


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Mount a small disk, fill it by training, make room, train on, and print what came out."""
    parser = command_parser("benchmarks.kill_campaign.cases", __doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("ranks", type=int)
    parser.add_argument("bytes", type=int)
    given = parser.parse_args()
    run, disk = Run(given.outputs, given.ranks), str(given.outputs)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={given.bytes}", "tmpfs", disk], check=True)
    found = first_start(run)
    subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", disk], check=True)
    print(json.dumps(found | run.judged(run.trained(), given.reference)))


if __name__ == "__main__":
    main()
