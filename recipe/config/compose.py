"""The command line's choices: composing them, showing them, and what is wrong with them.

A group is a folder of `configs/`, an option a file in it, described by its first comment line.
"""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS, ROOT
from recipe.config.numbers import check_integers
from recipe.tasks import embedded
from recipe.tasks import task as tasks

KEYS = {
    "seed": "of everything that draws",
    "output_root, data_root": "folders that runs are written to, and data read from",
    "data.train_batch_size": "prompts a step",
    "data.max_response_length": "tokens a response may have (data.max_prompt_length: a prompt)",
    "actor_rollout_ref.rollout.n": "responses a prompt, the group",
    "actor_rollout_ref.rollout.temperature": "of sampling (rollout.val_kwargs: in validation)",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "part of a GPU that vLLM takes",
    "actor_rollout_ref.actor.ppo_mini_batch_size": "prompts an update",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "tokens of a micro-batch",
    "actor_rollout_ref.actor.optim.lr": "learning rate",
    "actor_rollout_ref.actor.policy_loss.loss_mode": "verl's policy loss",
    "aggregation.mask_truncated": "leave responses cut at the limit out of the policy term",
    "data.val_tasks": "tasks of recipe/tasks/definitions that are validated on",
    "trainer.total_training_steps": "length of the run",
    "trainer.test_freq, trainer.save_freq": "steps between validations, between checkpoints",
}

WRONG_OVERRIDES = (ConfigCompositionException, MissingConfigException, OverrideParseException)

OmegaConf.register_new_resolver("made", embedded.folder, replace=True)
OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver(
    "task_files", lambda names, root: ListConfig(tasks.files(names, root)), replace=True
)
OmegaConf.register_new_resolver("task_setting", tasks.shared, replace=True)
OmegaConf.register_new_resolver("sum", lambda *numbers: sum(numbers), replace=True)
OmegaConf.register_new_resolver("half", lambda number: number // 2, replace=True)


def composed(overrides: list[str]) -> DictConfig:
    """The config of these overrides, as `recipe.main` composes it.

    Raises:
        UserError: the overrides choose or name what is not there.
    """
    try:
        return _compose(overrides)
    except WRONG_OVERRIDES as error:
        raise UserError(explanation(error, overrides)) from None


def resolve(config: DictConfig) -> None:
    """Put values in the place of interpolations, once the numbers that they add up are numbers.

    Raises:
        UserError: one is no number, or an interpolation names what is not there.
    """
    try:
        check_integers(config)
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        reason = str(error).splitlines()[0].strip(" .")
        raise UserError(
            f"a value of the config cannot be worked out: {reason}. Choose what it comes from: "
            f"model=... data=... cluster=..., or +experiment=NAME with all of them."
        ) from None


def groups() -> dict[str, dict[str, str]]:
    """Options of each group with their descriptions; `experiment` first, it chooses the others."""
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name != "sweep")
    folders.sort(key=lambda folder: folder.name != "experiment")
    return {
        folder.name: {path.stem: describe(path) for path in sorted(folder.glob("*.yaml"))}
        for folder in folders
    }


def describe(path: Path) -> str:
    """The first comment line of a config file that is not Hydra's `@package`."""
    lines = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next(line for line in lines if not line.startswith("@package"))


def help_text() -> str:
    """Groups with their options, and the keys that matter."""
    parts = [
        "Train one run.\n",
        "    python -m recipe.main +experiment=NAME [GROUP=OPTION...] [KEY=VALUE...]\n",
        "An experiment chooses an option of the groups below it; GROUP=OPTION chooses another. "
        "Without one,\nchoose at least model=, data= and cluster=.\n",
    ]
    for group, options in groups().items():
        width = max(map(len, options))
        prefix = "+" if group == "experiment" else ""
        parts.append(f"{prefix}{group}=")
        parts += [f"    {name:{width}}  {text}" for name, text in options.items()]
        parts.append("")
    parts.append("Keys that matter, beside every other one of verl (--cfg job prints them all)")
    width = max(map(len, KEYS))
    parts += [f"    {keys:{width}}  {text}" for keys, text in KEYS.items()]
    return "\n".join(parts)


def check_choice(choices: Mapping[str, str | None], overrides: Iterable[str]) -> None:
    """Something to train was chosen, an experiment or a model and a cluster, and nothing is unread.

    Raises:
        UserError: it was not, or `+NAME=VALUE` adds a key that nothing reads.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        name = override.key_or_group
        if override.is_add() and "." not in name and name not in groups():
            raise UserError(
                f"+{name} would add a key of its own that nothing reads. {_nearest(name, groups())}"
            )
    if choices.get("experiment") or (choices.get("model") and choices.get("cluster")):
        return
    raise UserError(
        f"nothing was chosen to train. Add +experiment=NAME with one of "
        f"{', '.join(groups()['experiment'])}, or choose model=... data=... cluster=...; "
        f"python -m recipe.main --help lists them."
    )


def explanation(error: Exception, overrides: list[str]) -> str:
    """What Hydra found wrong in the overrides, in one paragraph that names what is nearest."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = list(groups().get(group, error.options or []))
        return (
            f"there is no config {error.missing_cfg_file}; known ones are {', '.join(known)}. "
            f"{_nearest(option, known)}"
        )
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        known = keys(_compose([str(o.input_line) for o in parsed if o.key_or_group in groups()]))
    except WRONG_OVERRIDES:
        parsed, known = [], []
    for override in parsed:
        key = override.key_or_group
        if override.type is OverrideType.CHANGE and key not in [*known, *groups()]:
            near = ", ".join(nearest_keys(key, known)) or "none"
            add = f", or write +{override.input_line} to add a key" if "." in key else ""
            return (
                f"there is no key {key} to override; the nearest known: {near}. Correct it{add}. "
                f"python -m recipe.main --help lists the keys that matter, --cfg job prints all."
            )
    return ". ".join(line.strip(" .") for line in str(error).splitlines()) + "."


def keys(config: DictConfig) -> list[str]:
    """Dotted keys of a config, sections included; what is interpolated is not looked into."""
    found = []
    for name in config:
        found.append(str(name))
        if not OmegaConf.is_missing(config, name) and not OmegaConf.is_interpolation(config, name):
            value = config[name]
            if isinstance(value, DictConfig):
                found += [f"{name}.{key}" for key in keys(value)]
    return found


def nearest_keys(key: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Keys whose last parts, as many as `key` has, are most like it; the best first."""

    def likeness(candidate: str) -> tuple[float, float]:
        tail = ".".join(candidate.split(".")[-len(key.split(".")) :])
        return SequenceMatcher(None, key, tail).ratio(), SequenceMatcher(
            None, key, candidate
        ).ratio()

    ranked = sorted(((likeness(candidate), candidate) for candidate in known), reverse=True)
    best = ranked[0][0][0] if ranked else 0
    return [name for (tail, _), name in ranked if tail == best >= 0.6][:most]


def _compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("base", overrides)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"The nearest is {close[0]}." if close else "Correct it, or leave it out."
