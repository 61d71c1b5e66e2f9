"""Find the checkpoints of a run, and merge them into folders that transformers and vLLM load."""

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
    """Return the checkpoint that a folder is, or the last complete one of a run.

    Raises:
        UserError: the folder is neither, or the run has none.
    """
    if run.name.startswith("global_step_") and (run / "actor/fsdp_config.json").is_file():
        return run
    if (run / "config.yaml").is_file():
        checkpoint = Journal(run).last_complete()
        if checkpoint is not None:
            return checkpoint
        raise UserError(
            f"{run} has no complete checkpoint. A run saves one every trainer.save_freq steps and "
            f"at its end, but none with save_freq=-1, which the demo has. Train with save_freq set."
        )
    raise UserError(
        f"{run} is neither the folder of a run (with config.yaml) nor a checkpoint (global_step_N "
        f"with a folder actor). Name one of the two, e.g. outputs/EXPERIMENT/RULE-sSEED."
    )


def exported(checkpoint: Path) -> Path:
    """Return the folder into which a checkpoint is exported by default."""
    return checkpoint.parents[1] / "exported" / checkpoint.name


def export(checkpoint: Path, out: Path, module: str) -> None:
    """Merge the actor's shards into `out`, completely or not at all.

    Args:
        checkpoint: a folder global_step_N with a folder actor.
        out: the new folder.
        module: the command that exports, noted in export.json.

    Raises:
        UserError: `out` exists already, or the merger failed.
    """
    if out.exists():
        raise UserError(f"{out} exists already. Move it away, or name another folder with --out.")
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
        raise UserError(
            f"verl's merger failed on {checkpoint}: {said[-1] if said else 'it said nothing'}. See "
            f"whether the checkpoint is complete and the disk has room, and export again."
        )
    made = {"checkpoint": str(checkpoint), "step": step_of(checkpoint)}
    (part / "export.json").write_text(json.dumps(made | provenance(module), indent=2) + "\n")
    part.rename(out)
