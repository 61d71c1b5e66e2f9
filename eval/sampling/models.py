"""Find the model to evaluate: a checkpoint of a run, a model folder, or a model of the hub."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError
from recipe.base.files import sha256_digest
from recipe.run.checkpoints import export, exported
from recipe.run.folder import method_of, other_overrides, read_metrics
from recipe.run.journal import Journal, step_of

# The paper's two quantities, as metrics of training.
LENGTHS = ("length_variation", "length_gap")


class Model(NamedTuple):
    """A model and its chat template settings."""

    name: str
    """The name in messages."""
    folder: Path | str
    """The folder to load (a checkpoint is exported to it), or OWNER/NAME."""
    results: Path
    """The folder of its results."""
    checkpoint: Path | None = None
    """The checkpoint that `folder` is exported from."""
    run: dict[str, Any] | None = None
    """The description of the run for tables; None for a model of another origin."""
    config: DictConfig | None = None
    """The run's config."""

    def ready(self) -> Path:
        """Return the model's folder; export or download it first if it is missing.

        Raises:
            UserError: that is not possible.
        """
        if isinstance(self.folder, str):
            return fetched(self.folder)
        if self.checkpoint is not None and not self.folder.exists():
            export(self.checkpoint, self.folder.absolute(), "eval.run")
        return self.folder

    @property
    def reward(self) -> dict[str, Any]:
        """Return the reward settings of the training run."""
        if self.config is None:
            return {}
        return plain(self.config.reward.custom_reward_function.reward_kwargs)

    @property
    def chat_template(self) -> dict[str, Any]:
        """Return the arguments that the run gives to the chat template."""
        given = self.config.data.get("apply_chat_template_kwargs") if self.config else None
        return plain(given) if given else {}

    @property
    def max_tokens(self) -> int | None:
        """Return the longest response in training, in tokens."""
        return self.config.data.max_response_length if self.config else None


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a part of a config as plain values."""
    return cast("dict[str, Any]", OmegaConf.to_container(config))


def find_models(name: str, steps: Sequence[str], out: Path) -> list[Model]:
    """Return the models that an argument of the command names.

    Args:
        name: folder of a run, of one of its checkpoints, of a model; or OWNER/NAME of the hub.
        steps: of a run: `last`, `all` or numbers, 0 being the model that it began with.
        out: where evaluations of models that are no run's are kept.

    Raises:
        UserError: nothing of that kind is there.
    """
    path = Path(name)
    if (path / "starts.jsonl").is_file():
        return [of_run(path, step) for step in chosen(path, steps)]
    named = path.absolute()
    if named.name.startswith("global_step_") and (named.parents[1] / "starts.jsonl").is_file():
        return [of_run(named.parents[1], step_of(path))]
    if (path / "config.json").is_file():
        return [Model(name, path, out / path.absolute().name)]
    if path.exists() or name.count("/") != 1:
        raise UserError(
            f"{name} is no folder of a run (with starts.jsonl), of a checkpoint (global_step_N) or "
            f"of a model (with config.json). Name one of them, or OWNER/NAME of the hub."
        )
    return [Model(name, name, out / name.replace("/", "--"))]


def chosen(run: Path, steps: Sequence[str]) -> list[int]:
    """Return the chosen steps of a run that have a complete or an exported checkpoint.

    Raises:
        UserError: one has none.
    """
    checkpoints = [*Journal(run).complete(), *(run / "exported").glob("global_step_*")]
    there = sorted({step_of(c) for c in checkpoints if c.suffix != ".part"})
    if not there and set(steps) != {"0"}:
        raise UserError(
            f"{run} has no complete checkpoint. A run saves one every trainer.save_freq "
            f"steps, and none with save_freq=-1, which the demo has."
        )
    found: set[int] = set()
    for step in steps:
        if step == "all":
            found |= set(there)
        elif step == "last":
            found.add(there[-1])
        elif step.isdigit() and int(step) in {0, *there}:
            found.add(int(step))
        else:
            raise UserError(
                f"{run} has no complete checkpoint of step {step}; there are "
                f"{', '.join(map(str, there))}. Choose some of them, 0, last or all."
            )
    return sorted(found)


def of_run(run: Path, step: int) -> Model:
    """Return the model of a run after a step.

    Raises:
        UserError: the run does not say how it was begun.
    """
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    starts = Journal(run).starts()
    if any("command" not in start for start in starts):
        raise UserError(
            f"{run} was begun by an older version of this project, which did not note the command. "
            f"Export a checkpoint elsewhere (python -m scripts.export RUN --out DIR) and evaluate "
            f"DIR."
        )
    described = {
        "experiment": config.experiment_name,
        "rule": method_of(config),
        "seed": config.seed,
        "overrides": other_overrides(shlex.split(starts[0]["command"])[3:]),
        "step": step,
        "commit": ", ".join(dict.fromkeys(str(start["commit"]) for start in starts)),
        **lengths(run, step),
    }
    name, results = f"{run} step {step}", run / "eval" / f"global_step_{step}"
    if step == 0:
        start = str(config.actor_rollout_ref.model.path)
        folder = Path(start) if Path(start).is_dir() else start
        return Model(name, folder, results, run=described, config=config)
    checkpoint = run / "checkpoints" / f"global_step_{step}"
    return Model(name, exported(checkpoint), results, checkpoint, described, config)


def lengths(run: Path, step: int) -> dict[str, float | None]:
    """Return the mean length statistics over the training steps up to this one."""
    before = [data for number, data in read_metrics(run) if 0 < number <= step]
    found = {}
    for name in LENGTHS:
        values = [data[key] for data in before if (key := f"aggregation/{name}") in data]
        found[name] = fmean(values) if values else None
    return found


def fetched(name: str) -> Path:
    """Return the folder of a hub model in the hub's cache.

    Raises:
        UserError: it cannot be had.
    """
    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name} is no folder here, and the hub does not give a model of that name: {reason}"
        ) from None


def sha256(folder: Path) -> str:
    """Return the hash of a model: its weights, config and tokenizer."""
    whole = hashlib.sha256()
    for path in model_files(folder):
        whole.update(path.name.encode() + b"\0")
        whole.update(sha256_digest(path))
    return whole.hexdigest()


def model_files(folder: Path) -> Iterable[Path]:
    """Return the files that determine what a model generates, by name.

    Raises:
        UserError: there are no weights.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} has no *.safetensors. Save the model in that format.")
    others = (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "added_tokens.json",
        "special_tokens_map.json",
    )
    return sorted([*weights, *(folder / name for name in others if (folder / name).is_file())])


def positions(folder: Path) -> int:
    """Return the largest number of tokens of prompt and response together.

    Raises:
        UserError: its config does not say.
    """
    config = json.loads((folder / "config.json").read_text())
    found = config.get("max_position_embeddings")
    if not isinstance(found, int):
        raise UserError(
            f"{folder / 'config.json'} has no max_position_embeddings, which bounds a response. "
            f"Add it."
        )
    return found
