"""The checkpoints of a run, found and merged into folders that transformers and vLLM load."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from recipe.base.errors import UserError
from recipe.base.provenance import provenance
from recipe.run.journal import Journal, step_of


def find_checkpoint(run: Path) -> Path:
    """The checkpoint that is meant: the folder itself, or the last whole one of a run.

    Raises:
        UserError: there is none.
    """
    if run.name.startswith("global_step_") and (run / "actor/fsdp_config.json").is_file():
        return run
    if (run / "config.yaml").is_file():
        checkpoint = Journal(run).last_whole()
        if checkpoint is not None:
            return checkpoint
        raise UserError(
            f"{run} has no whole checkpoint. A run saves one every trainer.save_freq steps and at "
            f"its end; with save_freq=-1, as the demo has, none."
        )
    raise UserError(
        f"{run} is neither the folder of a run (with config.yaml) nor a checkpoint (global_step_N "
        f"with a folder actor). Name one of the two, e.g. outputs/EXPERIMENT/RULE-sSEED."
    )


def exported(checkpoint: Path) -> Path:
    """Where a checkpoint is exported to unless told otherwise."""
    return checkpoint.parents[1] / "exported" / checkpoint.name


def export(checkpoint: Path, out: Path, module: str) -> None:
    """Merge the actor's shards into `out`, whole or not at all; `module` is the command at work.

    Raises:
        UserError: `out` is there already, or the merger failed.
    """
    if out.exists():
        raise UserError(f"{out} is there already. Move it away, or name another with --out.")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    merge = [
        sys.executable,
        "-m",
        "verl.model_merger",
        "merge",
        "--backend",
        "fsdp",
        "--local_dir",
        str(checkpoint / "actor"),
        "--target_dir",
        str(part),
    ]
    done = subprocess.run(
        merge, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        said = done.stderr.strip().splitlines()
        raise UserError(f"verl's merger failed on {checkpoint}: {said[-1] if said else '?'}")
    made = {"checkpoint": str(checkpoint), "step": step_of(checkpoint)}
    (part / "export.json").write_text(json.dumps(made | provenance(module), indent=2) + "\n")
    part.rename(out)
