"""Make a Hugging Face folder of a checkpoint, which transformers and vLLM load.

    python -m scripts.export outputs/EXPERIMENT/RULE-sSEED            # its last whole checkpoint
    python -m scripts.export .../checkpoints/global_step_N --out DIR

verl's own merger joins the shards; it writes bfloat16.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from recipe.errors import UserError
from recipe.journal import Journal, step_of
from recipe.outputs import provenance


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


def export(checkpoint: Path, out: Path) -> None:
    """Merge the actor's shards into `out`, whole or not at all.

    Raises:
        UserError: `out` is there already, or the merger failed.
    """
    if out.exists():
        raise UserError(f"{out} is there already. Move it away, or name another with --out.")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    merge = [
        sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp",
        "--local_dir", str(checkpoint / "actor"), "--target_dir", str(part),
    ]  # fmt: skip
    done = subprocess.run(merge, capture_output=True, text=True, check=False,
                          env=os.environ | {"HF_HUB_OFFLINE": "1"})  # fmt: skip
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        said = done.stderr.strip().splitlines()
        raise UserError(f"verl's merger failed on {checkpoint}: {said[-1] if said else '?'}")
    made = {"checkpoint": str(checkpoint), "step": step_of(checkpoint)}
    (part / "export.json").write_text(
        json.dumps(made | provenance("scripts.export"), indent=2) + "\n"
    )
    part.rename(out)


def main() -> None:
    """Export, and say where to."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="folder of a run, or of a checkpoint")
    parser.add_argument("--out", type=Path, help="by default exported/global_step_N in the run")
    options = parser.parse_args()
    try:
        checkpoint = find_checkpoint(options.run.absolute())
        out = options.out or checkpoint.parents[1] / "exported" / checkpoint.name
        print(f"merging {checkpoint} ...", flush=True)
        export(checkpoint, out.absolute())
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
