"""Check a config before Ray starts. What is known to fail is said in one paragraph."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from recipe import objectives
from recipe.base import plugins
from recipe.base.errors import UserError
from recipe.config.batches import (
    check_batches,
    check_halves,
    check_micro_batches,
    check_separate,
)
from recipe.config.machine import check_cpu_machine, check_packages
from recipe.config.settings import THIS_REWARD, Settings
from recipe.config.verl_keys import OVERLONG, check_verl_keys, overlong
from recipe.estimate.shapes import check_positions
from recipe.maths import advantages
from recipe.maths.advantages.base import Advantage, Memory
from recipe.maths.advantages.gdpo import GdpoSettings
from recipe.maths.signal import SignalToNoise
from recipe.objectives.base import Objective


def check_settings(config: DictConfig) -> Settings:
    """Check everything that needs no data, and return the parsed settings.

    Raises:
        UserError: the first problem found.
    """
    check_packages(config)
    settings = check_config(config)
    if config.trainer.device == "cpu":
        check_cpu_machine(config)
    return settings


def check_config(config: DictConfig) -> Settings:
    """Check everything that needs neither data nor the machine that trains.

    Raises:
        UserError: the first problem found.
    """
    check_batches(config)
    check_micro_batches(config)
    check_positions(config)
    settings = Settings.of(config)
    check_choices(settings)
    check_verl_keys(config, settings)
    if isinstance(settings.advantage.settings, GdpoSettings):
        check_components(config, settings.advantage.settings)
    check_resampling(config, settings)
    check_halves(config, settings.follow_snr)
    check_judge(settings)
    check_exponent(config, settings)
    objective = settings.begin(config)
    if config.trainer.resume_mode == "resume_path":
        memories = [*objective.memories()]
        if settings.follow_snr is not None:
            memories.append(SignalToNoise(settings.follow_snr))
        check_checkpoint(str(config.trainer.resume_from_path), memories)
    if config.trainer.v1.trainer_mode == "separate_async":
        check_separate(config)
    return settings


def check_choices(settings: Settings) -> None:
    """Refuse an objective without the aggregation rule or the advantage that it needs.

    Raises:
        UserError: one is `none`.
    """
    objective = settings.objective
    if objective.kind is None:
        raise UserError("objective=none chooses no objective. Choose one of configs/objective.")
    missing = {"aggregation": settings.aggregation.rule, "advantage": settings.advantage.kind}
    for group, chosen in missing.items():
        if chosen is None and plugins.find(objectives, objective.kind, Objective).has_aggregation:
            raise UserError(
                f"{group}=none is for objectives that have no {group}, and objective="
                f"{objective.name} has one. Choose another {group}, or an objective such as "
                f"objective=disco_logl."
            )


def check_resampling(config: DictConfig, settings: Settings) -> None:
    """Refuse a share of correct responses that cannot be, or that is not counted.

    Raises:
        UserError: the share is out of range, or groups are filtered before they are counted.
    """
    share = settings.leave_out_solved
    if share is None:
        return
    if not 0 < share <= 1:
        raise UserError(
            f"leave_out_solved is {share:g}, but it is a share of correct responses. Give a number "
            f"above 0 and up to 1, or null."
        )
    if config.algorithm.filter_groups.enable:
        raise UserError(
            "leave_out_solved is set, but algorithm.filter_groups.enable drops groups of only "
            "correct responses before they are counted. Use aggregation.drop_zero_groups=true "
            "instead of filter_groups, or leave_out_solved=null."
        )


def check_judge(settings: Settings) -> None:
    """Refuse an advantage without the judge that it needs, and a judge that nothing asks.

    Raises:
        UserError: one of them is the case.
    """
    name, kind = settings.advantage.name, settings.step_judge.kind
    chosen = settings.advantage.kind
    asks = chosen is not None and "progress_N" in plugins.find(advantages, chosen, Advantage).needs
    if asks and kind is None:
        raise UserError(
            f"advantage={name} needs a judge of steps, but step_judge.kind is null. Set it to "
            f"arithmetic for the demo's tasks, or to server, with step_judge.url."
        )
    if kind is not None and not asks:
        raise UserError(
            f"step_judge.kind is {kind}, but advantage={name} asks no judge. Leave it out, or use "
            f"advantage=sgpo."
        )


def check_components(config: DictConfig, settings: GdpoSettings) -> None:
    """Refuse components of the reward that nothing returns.

    Raises:
        UserError: there is one.
    """
    reward = config.reward.custom_reward_function
    sources = reward.reward_kwargs.get("sources") or {}
    if reward.path != THIS_REWARD or any(":" in str(source) for source in sources.values()):
        return
    known = ["correctness", "format", "length", *([OVERLONG] if overlong(config) else [])]
    if unknown := [name for name in settings.rewards if name not in known]:
        raise UserError(
            f"advantage.gdpo.rewards names {', '.join(unknown)}, but the reward has the components "
            f"{', '.join(known)}. Remove it with ~advantage.gdpo.rewards.NAME, or give a scorer of "
            f"your own that returns it."
        )


def check_exponent(config: DictConfig, settings: Settings) -> None:
    """Refuse a spread at which lambda-GRPO's h may reach 0.

    Raises:
        UserError: a group is too large for the spread.
    """
    scalar, n = settings.aggregation.scalar, config.actor_rollout_ref.rollout.n
    if scalar and scalar.spread * math.sqrt(n - 1) >= 1:
        raise UserError(
            f"aggregation.scalar.spread is {scalar.spread:.3g}, at which lambda-GRPO may be "
            f"undefined in a group of {n} responses (actor_rollout_ref.rollout.n). Use less than "
            f"1 / sqrt(n - 1) = {1 / math.sqrt(n - 1):.3g}."
        )


def check_checkpoint(path: str, memories: Sequence[Memory]) -> None:
    """Refuse to start from a folder that is no checkpoint, or one of another kind of run.

    Raises:
        UserError: it is not a checkpoint, or not one of a run that remembers the same.
    """
    # verl reads the step's number off the end of the text.
    named = re.search(r"(^|/)global_step_\d+$", path)
    if not named or not (Path(path) / "actor").is_dir():
        raise UserError(
            f"trainer.resume_from_path is {path}, which is no checkpoint. It must be a folder "
            f"named global_step_N (no slash behind) with a folder actor in it; runs write them "
            f"under checkpoints/ every trainer.save_freq steps."
        )
    try:
        for memory in memories:
            memory.load(Path(path))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
