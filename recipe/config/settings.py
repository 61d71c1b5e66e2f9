"""The part of a run's config that is ours, parsed once into one typed object.

verl's own keys stay verl's. `recipe/config/verl_keys.py` says which of their values are refused.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from recipe import objectives
from recipe.base import plugins
from recipe.base.errors import UserError
from recipe.base.typed import parse
from recipe.maths import advantages
from recipe.maths.advantages.base import Advantage
from recipe.maths.aggregation import AggregationSettings
from recipe.objectives.base import Chosen, Objective
from reward.sources import RewardSettings
from reward.steps import JudgeSettings

THIS_REWARD = "pkg://reward.score"


class Choice(NamedTuple):
    """Hold an option of a config group."""

    name: str
    """Name of the option, such as `ha_dw_code`."""
    kind: str | None
    """File that defines it, such as `ha_dw`; None for the option `none`."""
    settings: Any
    """Object of the kind's `Settings`; None if it has none."""


@dataclass(frozen=True)
class Settings:
    """Hold every key of a run's config that this project reads and verl does not."""

    experiment_name: str
    seed: int
    output_root: str
    data_root: str
    poll_interval: float
    """Seconds between two looks of verl's replay buffer for finished responses."""
    leave_out_solved: float | None
    """Share of correct responses from which a prompt is left out of later epochs; None: never."""
    follow_snr: float | None
    """Memory of the averages by which the learning rate follows the gradient's signal-to-noise
    ratio; None: it does not."""
    val_tasks: tuple[str, ...]
    """Tasks that are validated on; empty for files without a task."""
    made_task: str | None
    """The demo's task whose model and data are made on this machine."""
    aggregation: AggregationSettings
    advantage: Choice
    step_judge: JudgeSettings
    objective: Choice
    reward: RewardSettings | None
    """Settings of this project's reward; None if the config names another reward function."""

    @classmethod
    def of(cls, config: DictConfig) -> "Settings":
        """Parse a resolved config.

        Raises:
            UserError: a key is missing or unknown, or a value is not allowed.
        """
        data = config.data
        given = {name: config[name] for name in ("experiment_name", "seed", "output_root")}
        given |= {name: config[name] for name in ("data_root", "poll_interval")}
        given |= {name: config[name] for name in ("leave_out_solved", "follow_snr")}
        return cls(
            **given,
            val_tasks=tuple(data.get("val_tasks") or ()),
            made_task=data.get("task"),
            aggregation=parse(AggregationSettings, _plain(config, "aggregation"), "aggregation"),
            advantage=_choice(config, "advantage", advantages, Advantage),
            step_judge=parse(JudgeSettings, _plain(config, "step_judge"), "step_judge"),
            objective=_choice(config, "objective", objectives, Objective),
            reward=reward_settings(config),
        )

    def begin(self, verl: DictConfig) -> Objective:
        """Return the objective of a run that begins, with its advantage.

        Args:
            verl: the resolved config that these settings were parsed from.
        """
        advantage = None
        if self.advantage.kind:
            kind: Any = plugins.find(advantages, self.advantage.kind, Advantage)
            by_std = bool(verl.algorithm.get("norm_adv_by_std_in_grpo", True))
            advantage = kind(self.advantage.settings, by_std)
        assert self.objective.kind
        objective: Any = plugins.find(objectives, self.objective.kind, Objective)
        return objective(Chosen(self.objective.settings, self.aggregation, advantage, verl))


def reward_settings(config: DictConfig) -> RewardSettings | None:
    """Return the settings of this project's reward; None if the config names another.

    Raises:
        UserError: this project's reward refuses them.
    """
    if not uses_this_reward(config):
        return None
    given = OmegaConf.to_container(config.reward.custom_reward_function.reward_kwargs, resolve=True)
    assert isinstance(given, dict)
    try:
        return RewardSettings.of({str(key): value for key, value in given.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"the reward refuses its settings: {error}") from None


def uses_this_reward(config: DictConfig) -> bool:
    """Return whether responses are graded by this project's `reward/`."""
    return config.reward.custom_reward_function.path == THIS_REWARD


def _plain(config: DictConfig, key: str) -> dict[str, Any]:
    found = OmegaConf.to_container(config[key], resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def _choice(config: DictConfig, group: str, package: ModuleType, base: type) -> Choice:
    """Return the chosen option of a group: its kind is the file that its section is named after.

    Raises:
        UserError: the option has no section, another's, or settings that are not allowed.
    """
    section = _plain(config, group)
    name = section.pop("name")
    known = plugins.names(package)
    present = [key for key, value in section.items() if value is not None]
    if unknown := [key for key in present if key not in known]:
        raise UserError(
            f"there is no key {group}.{unknown[0]}. Sections are {', '.join(known)}, one for each "
            f"file of {package.__name__.replace('.', '/')}."
        )
    fix = (
        f"Choose an option of configs/{group} with {group}=NAME, which sets them, and change one "
        f"with {group}.SECTION.KEY=VALUE."
    )
    kind = name if not present and name in known else next(iter(present), None)
    if kind is None and name == "none":
        return Choice(name, None, None)
    if kind is None:
        raise UserError(f"{group}={name} has no settings. {fix}")
    settings = plugins.find(package, kind, base).Settings
    if (settings is None and present) or len(present) > 1 or not _names(name, kind):
        raise UserError(f"{group}={name} has no {group}.{present[-1]}. {fix}")
    if settings is None:
        return Choice(name, kind, None)
    if not present:
        raise UserError(f"{group}={name} has no settings. {fix}")
    return Choice(name, kind, parse(settings, section[kind], f"{group}.{kind}"))


def _names(name: str, kind: str) -> bool:
    """Return whether an option's name begins as its kind does, as `discob_logl` with `disco`."""
    return name.startswith(kind)
