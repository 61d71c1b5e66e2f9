"""Make a Hugging Face folder of a checkpoint, which transformers and vLLM load.

    python -m scripts.export outputs/EXPERIMENT/RULE-sSEED            # its last whole checkpoint
    python -m scripts.export .../checkpoints/global_step_N --out DIR

verl's own merger joins the shards; it writes bfloat16.
"""

import argparse
import sys
from pathlib import Path

from recipe.base.errors import UserError
from recipe.run.checkpoints import export, exported, find_checkpoint


def main() -> None:
    """Export, and say where to."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run, or of a checkpoint")
    parser.add_argument("--out", type=Path, help="by default exported/global_step_N in the run")
    options = parser.parse_args()
    try:
        checkpoint = find_checkpoint(options.run.absolute())
        out = options.out or exported(checkpoint)
        print(f"merging {checkpoint} ...", flush=True)
        export(checkpoint, out.absolute(), "scripts.export")
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
