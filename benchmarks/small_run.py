"""Start small runs of the demo, and compare two of them. Tests do so, too."""

import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recipe.base.paths import ROOT
from recipe.run.folder import read_metrics
from recipe.run.journal import Journal

# Of what a step sampled and learned; the rest is times, memory and rounding.
COMPARED = (
    "critic/",
    "response_length/",
    "advantage/",
    "aggregation/",
    "val-core/",
    "actor/grad_norm",
)
Records = Sequence[tuple[int, dict[str, float]]]


def start(outputs: Path, *overrides: str, **settings: Any) -> subprocess.Popen:
    """Start a run of the demo below `outputs`, with W&B offline.

    Args:
        outputs: the run's `output_root`.
        overrides: what differs from the demo.
        settings: of `subprocess.Popen`; by default its output is text in a pipe.
    """
    command = [sys.executable, "-m", "recipe.main", "+experiment=cpu_demo", *overrides]
    # What a test session sets for its own processes.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VERL_")}
    piped = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    wandb = {"WANDB_MODE": "offline"} | settings.pop("env", {})
    return subprocess.Popen(
        [*command, f"output_root={outputs}"], cwd=ROOT, env=environment | wandb, **piped | settings
    )


def compare_metrics(found: Records, expected: Records) -> dict[str, Any]:
    """Compare the records (step, metrics) of two runs.

    Returns:
        the steps that are `missing` in `found`, those that are there twice (`doubled`), and the
        largest absolute difference of a compared metric (`metrics`; infinite where only one run
        has a number).
    """
    steps, wanted, difference = [step for step, _ in found], dict(expected), 0.0
    for step, data in found:
        other = wanted.get(step, {})
        for key in (key for key in data.keys() | other.keys() if key.startswith(COMPARED)):
            pair = data.get(key, math.nan), other.get(key, math.nan)
            if pair[0] != pair[1] and not all(map(math.isnan, pair)):
                gap = abs(pair[0] - pair[1])
                difference = max(difference, math.inf if math.isnan(gap) else gap)
    return {
        "missing": [step for step in wanted if step not in steps],
        "doubled": sorted({step for step in steps if steps.count(step) > 1}),
        "metrics": difference,
    }


def compare_runs(found: Path, expected: Path) -> dict[str, Any]:
    """Compare two run folders: as `compare_metrics`, and the `weights` of the last checkpoint.

    `weights` is the largest absolute difference of a parameter, None without a checkpoint.
    """
    compared = compare_metrics(read_metrics(found), read_metrics(expected))
    pair = [Journal(folder).last_complete() for folder in (found, expected)]
    if pair[0] is None or pair[1] is None or pair[0].name != pair[1].name:
        return compared | {"weights": None}
    mine, other = (weights(checkpoint) for checkpoint in pair if checkpoint)
    differences = (float((mine[name] - other[name]).abs().max()) for name in mine | other)
    return compared | {"weights": max(differences)}


def weights(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    """Return the parameters of a checkpoint, each rank's part by itself."""
    # It warns of a checkpoint that is read outside of training, as here.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    return {
        f"{path.name} {name}": getattr(tensor, "_local_tensor", tensor)
        for path in sorted((checkpoint / "actor").glob("model_world_size_*.pt"))
        for name, tensor in torch.load(path, weights_only=False, map_location="cpu").items()
    }
