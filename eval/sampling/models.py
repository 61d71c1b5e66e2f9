"""What is evaluated: a checkpoint of a run, a folder that transformers loads, or one of the hub."""

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
from recipe.run.checkpoints import export, exported
from recipe.run.folder import method_of, other_overrides, read_metrics
from recipe.run.journal import Journal, step_of

# The paper's two quantities, as metrics of training.
LENGTHS = ("length_variation", "length_gap")


class Model(NamedTuple):
    """A model and how it is asked."""

    name: str
    """For people."""
    folder: Path | str
    """That transformers and vLLM load; of a checkpoint, once it is exported. Or OWNER/NAME."""
    results: Path
    """Where its evaluation is kept."""
    checkpoint: Path | None = None
    """From which `folder` is made."""
    run: dict[str, Any] | None = None
    """Of a run's checkpoint, what tables need to know of the run."""
    config: DictConfig | None = None
    """The run's."""

    def ready(self) -> Path:
        """The model's folder, exported or fetched if it is not there yet.

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
        """The reward settings that the run was trained with."""
        if self.config is None:
            return {}
        return plain(self.config.reward.custom_reward_function.reward_kwargs)

    @property
    def chat_template(self) -> dict[str, Any]:
        """What the run gives to the chat template."""
        given = self.config.data.get("apply_chat_template_kwargs") if self.config else None
        return plain(given) if given else {}

    @property
    def max_tokens(self) -> int | None:
        """The limit that the run was trained within."""
        return self.config.data.max_response_length if self.config else None


def plain(config: DictConfig) -> dict[str, Any]:
    """A part of a config as JSON has it."""
    return cast("dict[str, Any]", OmegaConf.to_container(config))


def find_models(name: str, steps: Sequence[str], out: Path) -> list[Model]:
    """What a word of the command line means.

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
    """The steps of a run that are meant, and have a whole or an exported checkpoint.

    Raises:
        UserError: one has none.
    """
    checkpoints = [*Journal(run).complete(), *(run / "exported").glob("global_step_*")]
    there = sorted({step_of(c) for c in checkpoints if c.suffix != ".part"})
    if not there and set(steps) != {"0"}:
        raise UserError(
            f"{run} has no whole checkpoint. A run saves one every trainer.save_freq steps; with "
            f"save_freq=-1, as the demo has, none."
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
                f"{run} has no whole checkpoint of step {step}; there are "
                f"{', '.join(map(str, there))}. Choose some of them, 0, last or all."
            )
    return sorted(found)


def of_run(run: Path, step: int) -> Model:
    """The model of a run after a step.

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
    """Means over the training steps up to this one of what the paper says decides between rules."""
    before = [data for number, data in read_metrics(run) if 0 < number <= step]
    found = {}
    for name in LENGTHS:
        values = [data[key] for data in before if (key := f"aggregation/{name}") in data]
        found[name] = fmean(values) if values else None
    return found


def fetched(name: str) -> Path:
    """The folder of a model of the hub, in the hub's cache.

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
    """The hash of a model: its weights, config and tokenizer."""
    whole = hashlib.sha256()
    for path in model_files(folder):
        whole.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def model_files(folder: Path) -> Iterable[Path]:
    """The files that decide what a model says, by name.

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
    """How many tokens the model takes, prompt and response together.

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
