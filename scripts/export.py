"""Export a checkpoint to a Hugging Face folder, which transformers and vLLM can load.

    python -m scripts.export outputs/EXPERIMENT/RULE-sSEED            # its last complete checkpoint
    python -m scripts.export .../checkpoints/global_step_N --out DIR

verl's own merger joins the shards and writes bfloat16.
"""

from pathlib import Path

from recipe.base.command import command_parser, errors_reported
from recipe.run.checkpoints import export, exported, find_checkpoint


def main() -> None:
    """Export the checkpoint, and print the folder."""
    parser = command_parser("scripts.export", __doc__)
    parser.add_argument("run", type=Path, help="folder of a run, or of a checkpoint")
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: exported/global_step_N in the run)"
    )
    options = parser.parse_args()
    with errors_reported():
        checkpoint = find_checkpoint(options.run.absolute())
        out = options.out or exported(checkpoint)
        print(f"merging {checkpoint} ...", flush=True)
        export(checkpoint, out.absolute(), "scripts.export")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
