"""Name the folder of a run, and write and read its config and summary."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError
from recipe.base.files import write_atomically

# Overrides that the folder's name shows, or that do not change what a run computes.
NAMED = (
    "+experiment",
    "experiment",
    "aggregation",
    "advantage",
    "objective",
    "preset",
    "seed",
    "output_root",
    "data_root",
    "trainer.resume_mode",
)
# What a run did before these keys came.
BEFORE = {
    "advantage": {"name": "grpo"},
    "objective": {"name": "policy_gradient"},
    "preset": None,
    "aggregation": {"vl_norm_alpha": 0.75, "positive_factor": 1.0},
}
# Keys that may differ between two starts of one run: how it starts, the places of files on the
# machine (a checkpoint knows the contents of the training files), and what only estimates read.
OF_A_START = re.compile(
    r"trainer\.resume_mode|actor_rollout_ref\.rollout\.agent\.agent_loop_config_path"
    r"|output_root|data_root|data\.train_files|data\.val_files|estimate\..*"
)


def run_folder(config: DictConfig, overrides: list[str]) -> Path:
    """Return `OUTPUT_ROOT/EXPERIMENT/METHOD-sSEED[-HASH]`.

    The hash is of the overrides that the name does not show.
    """
    others = other_overrides(overrides)
    name = f"{method_of(config)}-s{config.seed}"
    if others:
        name += "-" + hashlib.sha256("\n".join(others).encode()).hexdigest()[:6]
    return Path(config.output_root).absolute() / config.experiment_name / name


def method_of(config: DictConfig) -> str:
    """Return what a run is compared by: RULE[+ADVANTAGE][+OBJECTIVE][+PRESET], or an objective.

    GRPO's advantages and the policy gradient are left out of the name.
    """
    config = completed(config)
    if config.aggregation.rule is None:
        return str(config.objective.name)
    names = [str(config.aggregation.rule)]
    names += [config.advantage.name] if config.advantage.name != "grpo" else []
    names += [config.objective.name] if config.objective.name != "policy_gradient" else []
    names += [config.preset] if config.preset else []
    return "+".join(names)


def name_run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Set the folder of the checkpoints, and the name that loggers show unless it is overridden.

    Raises:
        UserError: the folder of the checkpoints is overridden; several runs would mix there.
    """
    named = {override.partition("=")[0].lstrip("+") for override in overrides}
    if "trainer.default_local_dir" in named:
        raise UserError(
            "trainer.default_local_dir is set, but checkpoints must lie in the folder of their "
            "run. Remove that override; output_root=... moves both to another disk."
        )
    config.trainer.default_local_dir = str(folder / "checkpoints")
    if "trainer.experiment_name" not in named:
        config.trainer.experiment_name = f"{config.experiment_name}-{folder.name}"


def completed(config: Any) -> DictConfig:
    """Return a run's config, with the values of older runs for keys that came later."""
    found = OmegaConf.merge(BEFORE, config)
    assert isinstance(found, DictConfig)
    return found


def other_overrides(overrides: list[str]) -> list[str]:
    """Return, sorted, what distinguishes a run from others of its experiment, method and seed."""
    return sorted(o for o in overrides if o.partition("=")[0] not in NAMED)


def holds_same_run(folder: Path, config: DictConfig) -> bool:
    """Return whether the folder holds an earlier start of this run.

    Raises:
        UserError: it holds a run with another resolved config.
    """
    saved = folder / "config.yaml"
    if not saved.exists():
        return False
    # Compare both after a pass through YAML, which turns tuples into lists.
    written = OmegaConf.create(OmegaConf.to_yaml(config, resolve=True))
    changed = differing_keys(completed(OmegaConf.load(saved)), completed(written))
    if changed:
        raise UserError(
            f"{folder} holds a run with another config (it differs in {', '.join(changed)}), "
            f"and results of two configs are never mixed. Move that folder away, or name "
            f"another place with output_root=..."
        )
    return True


def is_finished(folder: Path, config: DictConfig) -> bool:
    """Return whether this run has its summary and is not to be trained again.

    Raises:
        UserError: the folder holds a run with another resolved config.
    """
    same = holds_same_run(folder, config) and (folder / "summary.json").exists()
    return same and config.trainer.resume_mode != "disable"


def new_folder(folder: Path, config: DictConfig) -> Path | None:
    """Make the folder and write `config.yaml`; move an existing folder aside first.

    Returns:
        The new place of an existing folder: `NAME~1`, `NAME~2`, ...
    """
    aside = None
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}~{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True)
    text = OmegaConf.to_yaml(config, resolve=True, sort_keys=True)
    write_atomically(folder / "config.yaml", text)
    return aside


def differing_keys(one: Any, other: Any, limit: int = 5) -> list[str]:
    """Return the dotted keys whose values differ, at most `limit` of them."""
    flat = [dict(leaves(config)) for config in (one, other)]
    every = sorted(flat[0].keys() | flat[1].keys())
    keys = [key for key in every if flat[0].get(key) != flat[1].get(key)]
    return keys[:limit] + (["..."] if len(keys) > limit else [])


def leaves(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of a config, without those that differ between starts."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, f"{prefix}{key}.")
        elif not OF_A_START.fullmatch(prefix[:-1]):
            yield prefix[:-1], node

    return walk(OmegaConf.to_container(config, resolve=True), "")


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`, completely or not at all."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_metrics(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the (step, metrics) records of a run, in order."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["step"], record["data"]) for record in map(json.loads, lines)]
