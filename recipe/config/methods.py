"""Which advantage and which objective a run has, and what does not combine."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.base.errors import UserError
from recipe.maths.advantages.gdpo import Gdpo, GdpoSettings
from recipe.maths.advantages.ha_dw import HaDw, HaDwSettings
from recipe.maths.disco import DiscoSettings

KINDS: dict[str, dict[str, type]] = {
    "advantage": {"ha_dw": HaDwSettings, "gdpo": GdpoSettings},
    "objective": {"disco": DiscoSettings},
}
# Options without settings.
PLAIN = ("grpo", "none", "policy_gradient")
# What the reward of this project and the trainer make, and what verl's DAPO reward manager adds.
COMPONENTS = ("correctness", "format", "length")
OVERLONG = "overlong_reward"


def disco_of(config: DictConfig) -> DiscoSettings | None:
    """The settings of the objective DisCO; None if the objective is a policy gradient.

    Raises:
        ValueError: they mean nothing, or are not of the objective that is named.
    """
    found = _settings(config, "objective")
    return found and DiscoSettings(**found[1])


def advantage_of(config: DictConfig) -> HaDw | Gdpo | None:
    """What makes the advantages out of verl's GRPO ones; None if they stay as they are.

    Raises:
        ValueError: its settings mean nothing, or are not of the advantage that is named.
    """
    found = _settings(config, "advantage")
    if found is None:
        return None
    section, given = found
    if section == "ha_dw":
        return HaDw(HaDwSettings(**given))
    by_std = bool(config.algorithm.get("norm_adv_by_std_in_grpo", True))
    return Gdpo(GdpoSettings(**given), by_std)


def check_methods(config: DictConfig) -> None:
    """Rule, advantage and objective have settings that a run can mean, and combine.

    Raises:
        UserError: they do not, with the reason.
    """
    try:
        disco, advantage = disco_of(config), advantage_of(config)
    except ValueError as error:
        raise UserError(str(error)) from None
    if disco is not None:
        check_disco(config)
        return
    for group, name in (("aggregation", "rule"), ("advantage", "name")):
        if config[group][name] in (None, "none"):
            raise UserError(
                f"{group}=none is for objectives that have no {group}, and objective="
                f"{config.objective.name} has one. Choose another {group}, or an objective such "
                f"as objective=disco_logl."
            )
    if isinstance(advantage, Gdpo):
        check_gdpo(config, advantage.settings)


def check_gdpo(config: DictConfig, settings: GdpoSettings) -> None:
    """Every reward that GDPO names may be there, and no other one is lost."""
    if config.algorithm.use_kl_in_reward:
        raise UserError(
            "algorithm.use_kl_in_reward is true, but advantage=gdpo is made of the reward's "
            "components, which hold no KL term. Use actor_rollout_ref.actor.use_kl_loss=true."
        )
    reward = config.reward
    overlong = reward.get("reward_kwargs", {}).get("overlong_buffer_cfg")
    punishes = bool(overlong and overlong.enable)
    if punishes and (OVERLONG not in settings.rewards or not overlong.log):
        raise UserError(
            f"rewards=dapo adds a punishment for length to the score, which advantage=gdpo does "
            f"not read. Add +advantage.gdpo.rewards.{OVERLONG}=1 (and leave reward.reward_kwargs."
            f"overlong_buffer_cfg.log=true), or leave the punishment out."
        )
    if settings.statistics == "token" and config.aggregation.drop_zero_groups:
        raise UserError(
            "aggregation.drop_zero_groups is true, but the token statistics of advantage=gdpo move "
            "groups without variance off 0. Use advantage=gdpo, or keep the groups."
        )
    sources = reward.custom_reward_function.reward_kwargs.get("sources") or {}
    own = any(":" in str(source) for source in sources.values())
    if reward.custom_reward_function.path == "pkg://reward.score" and not own:
        known = [*COMPONENTS, OVERLONG] if punishes else [*COMPONENTS]
        if unknown := [name for name in settings.rewards if name not in known]:
            raise UserError(
                f"advantage.gdpo.rewards names {', '.join(unknown)}, but the reward has the "
                f"components {', '.join(known)}. Remove it with ~advantage.gdpo.rewards.NAME, or "
                f"give a scorer of your own that returns it."
            )


def check_disco(config: DictConfig) -> None:
    """DisCO reads what is set beside it, or it is refused."""
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.rollout_correction
    overlong = config.reward.get("reward_kwargs", {}).get("overlong_buffer_cfg")
    refusals: Mapping[str, tuple[bool, str]] = {
        f"aggregation={config.aggregation.rule}": (
            config.aggregation.rule is not None,
            "its score is the mean over a response's tokens, so there is no aggregation to choose",
        ),
        f"advantage={config.advantage.name}": (
            config.advantage.name != "none",
            "it sets right responses against wrong ones and has no advantages",
        ),
        "aggregation.mask_truncated or drop_zero_groups": (
            bool(config.aggregation.mask_truncated or config.aggregation.drop_zero_groups),
            "groups without both verdicts add nothing to it and count, as in the paper",
        ),
        f"actor_rollout_ref.actor.policy_loss.loss_mode={actor.policy_loss.loss_mode}": (
            actor.policy_loss.loss_mode != "vanilla",
            "it is a loss of its own and clips nothing",
        ),
        "actor_rollout_ref.actor.use_kl_loss, entropy_coeff or algorithm.use_kl_in_reward": (
            bool(actor.use_kl_loss or actor.entropy_coeff or config.algorithm.use_kl_in_reward),
            "it has a constraint of its own (objective.disco.kl_limit) and no such term",
        ),
        "algorithm.rollout_correction.rollout_is or rollout_rs": (
            correction.rollout_is is not None or correction.rollout_rs is not None,
            "its scores have no importance weights and no rejection",
        ),
        "actor_rollout_ref.actor.shuffle": (
            bool(actor.shuffle),
            "shuffled mini-batches would part the groups that it compares within",
        ),
        "rewards=dapo": (
            bool(overlong and overlong.enable),
            "it reads the verdict alone, so the punishment for length would be lost",
        ),
    }
    for setting, (refused, reason) in refusals.items():
        if refused:
            raise UserError(
                f"{setting} does not go with objective={config.objective.name}: {reason}. Leave "
                f"that setting out, or choose objective=policy_gradient."
            )


def _settings(config: DictConfig, group: str) -> tuple[str, dict[str, Any]] | None:
    """The section of an option with its settings; None of an option that has none.

    Raises:
        ValueError: the option that is named has another section, or keys are missing or unknown.
    """
    found = OmegaConf.to_container(config[group], resolve=True)
    assert isinstance(found, dict)
    name, kinds = found.get("name"), KINDS[group]
    present = [section for section in kinds if found.get(section) is not None]
    if name in PLAIN and not present:
        return None
    if name in PLAIN or len(present) != 1:
        raise ValueError(
            f"{group}={name} {f'has no {group}.{present[0]}' if present else 'has no settings'}. "
            f"Choose an option of configs/{group} with {group}=NAME, which sets them, and change "
            f"one with {group}.SECTION.KEY=VALUE."
        )
    [section] = present
    keys = {field.name for field in fields(kinds[section])}
    given = found[section]
    if not isinstance(given, dict) or set(given) != keys:
        known = ", ".join(sorted(keys))
        raise ValueError(f"{group}.{section} is {given}, but must have the keys {known}.")
    return section, {str(key): value for key, value in given.items()}
