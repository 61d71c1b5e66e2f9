"""Check what a probe of the estimator is asked for, and find the folder that belongs to it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.base.files import sha256_of, sha256_of_files, write_atomically
from recipe.estimator.ranks import num_ranks
from recipe.maths.rules import MICRO, RULES


class Options(NamedTuple):
    """Hold what the command line asks for."""

    prompts: int
    group: int
    batch_groups: int
    rules: Sequence[str]
    advantage: str
    """A key of `ADVANTAGES`."""
    baseline: str
    sketch: int
    """Width of the sketches; 0 keeps exact gradients."""
    fresh: int
    """Fresh prompts for the measured step."""
    step_batches: int
    """Batches whose gradients a step is taken along; 0 takes none."""
    sampler: Literal["transformers", "vllm"]
    seed: int
    positive_factor: float = 1.0
    """Factor of the weights of responses with a positive advantage, under every rule."""


def check(options: Options) -> None:
    """Raise UserError for options that measure nothing."""
    unknown = [name for name in (*options.rules, options.baseline) if name not in RULES]
    if unknown:
        raise UserError(f"there is no rule {unknown[0]!r}. Known rules are {', '.join(RULES)}.")
    if MICRO in options.rules:
        raise UserError(
            f"{MICRO} depends on verl's micro-batches, which this probe does not make. Leave it "
            f"out of --rules; docs/methods.md says how far it is from token_batch."
        )
    if options.baseline not in options.rules:
        raise UserError(
            f"--baseline is {options.baseline}, but --rules are {', '.join(options.rules)}. "
            f"Add it to the rules, or choose one of them."
        )
    if options.positive_factor < 0:
        raise UserError(
            f"--positive-factor is {options.positive_factor:g}. Give 1, which leaves the rules as "
            f"they are, or another number of at least 0."
        )
    if options.group < 2:
        raise UserError(
            f"--group is {options.group}, but an advantage compares the responses of a group. "
            f"Give at least 2."
        )
    if options.prompts < 4 * options.batch_groups:
        raise UserError(
            f"--prompts {options.prompts} make {options.prompts // options.batch_groups} batches "
            f"of {options.batch_groups} groups, but noise is measured between at least 4. Give "
            f"--prompts {4 * options.batch_groups} or more."
        )
    if options.step_batches and (options.fresh < 8 or options.step_batches < 2):
        raise UserError(
            f"--fresh is {options.fresh} and --step-batches {options.step_batches}, but the error "
            f"of the measured step needs 8 fresh prompts and 2 batches. Give at least these, or "
            f"--step-batches 0."
        )


def fingerprint(config: DictConfig, options: Options) -> dict[str, Any]:
    """Return what the kept responses and gradients depend on."""
    model = Path(config.actor_rollout_ref.model.path)
    if not model.is_dir():
        raise UserError(
            f"the model {model} is no folder. Give one that transformers loads, such as one of "
            f"scripts.export, with --model."
        )
    weights = [path for kind in ("safetensors", "bin", "json") for path in model.glob(f"*.{kind}")]
    return {
        "model": sha256_of_files(sorted(weights)),
        "data": sha256_of(Path(config.data.train_files)),
        "limit": config.data.max_response_length,
        "prompts": options.prompts,
        "group": options.group,
        "batch_groups": options.batch_groups,
        "sketch": options.sketch,
        "fresh": options.fresh,
        "sampler": options.sampler,
        "ranks": num_ranks(),
        "seed": options.seed,
    }


def default_folder(config: DictConfig, options: Options) -> Path:
    """Return a folder whose name depends on what is kept in it."""
    digest = hashlib.sha256(json.dumps(fingerprint(config, options)).encode()).hexdigest()
    return Path("outputs/probes") / f"estimator-{digest[:8]}"


def claim(folder: Path, config: DictConfig, options: Options) -> None:
    """Make the folder, or check that what is in it is of the same probe.

    Raises:
        UserError: it holds another probe's responses.
    """
    path, own = folder / "kept.json", fingerprint(config, options)
    if path.exists() and (other := json.loads(path.read_text())) != own:
        differs = ", ".join(key for key in own if other.get(key) != own[key])
        raise UserError(
            f"{folder} keeps responses of a probe with another {differs}. Give another folder "
            f"with --out, or remove this one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(own, indent=1) + "\n")
