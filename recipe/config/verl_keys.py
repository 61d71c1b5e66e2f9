"""Values of verl's keys that are refused, as data: the key, when it is refused, and the reason.

verl would run with each of these, but would silently do something else than the config says.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipe.config.refusal import Refusal, refuse
from recipe.config.settings import Settings
from recipe.maths.rules import MICRO

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
CORRECTION = "algorithm.rollout_correction"


def corrects(config: DictConfig) -> bool:
    """Return whether rollout correction weighs or rejects responses."""
    correction = config.algorithm.rollout_correction
    return correction.rollout_is is not None or correction.rollout_rs is not None


def overlong(config: DictConfig) -> Any:
    """Return the settings of DAPO's length penalty if it is on, else None."""
    buffer = config.reward.get("reward_kwargs", {}).get("overlong_buffer_cfg")
    return buffer if buffer and buffer.enable else None


def saves(config: DictConfig) -> bool:
    """Return whether the run writes checkpoints."""
    return config.trainer.save_freq > 0


FOLLOWS = (
    "The policy loss follows aggregation.rule, or an objective without one, in an FSDP actor under "
    "verl's V1 trainer. Remove or change that override."
)
UNSAFE = "then there are times without a complete checkpoint to resume from"
KEEP_TWO = "Remove that override; trainer.max_actor_ckpt_to_keep=2 is the smallest safe number."

ALWAYS = (
    Refusal(
        CORRECTION,
        lambda c: c.algorithm.rollout_correction is None,
        "verl reads keys of this section",
        "Leave it out: verl's default corrects nothing.",
    ),
    Refusal(
        f"{ACTOR}.loss_agg_mode",
        lambda c: c.actor_rollout_ref.actor.loss_agg_mode != "token-mean",
        "only the entropy and KL terms would follow it",
        FOLLOWS,
    ),
    Refusal(
        f"{ACTOR}.loss_scale_factor",
        lambda c: c.actor_rollout_ref.actor.loss_scale_factor is not None,
        "only verl's own aggregation would follow it",
        FOLLOWS,
    ),
    Refusal(
        "algorithm.adv_estimator",
        lambda c: c.algorithm.adv_estimator != "grpo",
        "a weight belongs to a response with one group-relative advantage (grpo)",
        FOLLOWS,
    ),
    Refusal(
        "distillation.enabled",
        lambda c: c.distillation.enabled,
        "distillation brings a loss of its own",
        FOLLOWS,
    ),
    Refusal(
        f"{ACTOR}.strategy",
        lambda c: c.actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2"),
        "the actor's measurements are written for fsdp and fsdp2",
        FOLLOWS,
    ),
    Refusal(
        CORRECTION,
        lambda c: (
            (corrects(c) or c.algorithm.rollout_correction.bypass_mode)
            and not c.actor_rollout_ref.rollout.calculate_log_probs
        ),
        "it needs the rollout's log-probabilities",
        f"Add {ROLLOUT}.calculate_log_probs=true.",
    ),
    Refusal(
        f"{CORRECTION}.bypass_mode",
        lambda c: corrects(c) and c.algorithm.rollout_correction.bypass_mode,
        "verl's trainer then skips rollout_is and rollout_rs, which are set",
    ),
    Refusal(
        f"{CORRECTION}.loss_type",
        lambda c: c.algorithm.rollout_correction.loss_type != "ppo_clip",
        "verl's V1 trainer does not read it; the loss bypass_mode has a loss_type of its own",
    ),
    Refusal(
        f"{ACTOR}.policy_loss.loss_mode",
        lambda c: (
            c.actor_rollout_ref.actor.policy_loss.loss_mode == "bypass_mode"
            and not c.algorithm.rollout_correction.bypass_mode
        ),
        f"it takes the rollout's log-probabilities for old ones, but {CORRECTION}.bypass_mode is "
        f"false",
    ),
    Refusal(
        "trainer.logger",
        lambda c: "file" not in c.trainer.logger,
        "the progress line and the report read what `file` writes",
        "Add it: trainer.logger=[console,file,...].",
    ),
    Refusal("trainer.val_only", lambda c: c.trainer.val_only, "a run here trains"),
    Refusal("trainer.use_v1", lambda c: not c.trainer.use_v1, "a run here uses verl's V1 trainer"),
    Refusal(
        f"{ACTOR}.grad_clip",
        lambda c: (
            c.actor_rollout_ref.actor.grad_clip
            not in (1.0, c.actor_rollout_ref.actor.optim.clip_grad)
        ),
        "verl's FSDP engine does not read it",
        f"Set {ACTOR}.optim.clip_grad, at which it clips.",
    ),
    Refusal(
        "trainer.critic_warmup",
        lambda c: c.trainer.critic_warmup > 0,
        "these are steps in which verl trains only its critic, and here is none",
    ),
    Refusal(
        "trainer.resume_mode",
        lambda c: c.trainer.resume_mode not in ("auto", "disable", "resume_path"),
        "it must be auto (resume this run), disable (start anew), or resume_path with "
        "trainer.resume_from_path=.../global_step_N (start from another run's checkpoint)",
        "Choose one of these.",
    ),
    Refusal(
        "trainer.max_actor_ckpt_to_keep",
        lambda c: saves(c) and c.trainer.max_actor_ckpt_to_keep == 1,
        UNSAFE,
        KEEP_TWO,
    ),
    Refusal(
        "trainer.remove_previous_ckpt_in_save",
        lambda c: saves(c) and c.trainer.get("remove_previous_ckpt_in_save"),
        UNSAFE,
        KEEP_TWO,
    ),
    Refusal(
        "trainer.del_local_ckpt_after_load",
        lambda c: saves(c) and c.trainer.del_local_ckpt_after_load,
        UNSAFE,
        KEEP_TWO,
    ),
    Refusal(
        f"{ACTOR}.checkpoint.async_save",
        lambda c: saves(c) and c.actor_rollout_ref.actor.checkpoint.get("async_save"),
        UNSAFE,
        KEEP_TWO,
    ),
    Refusal(
        "reward.reward_kwargs.overlong_buffer_cfg.len",
        lambda c: overlong(c) and not 0 < overlong(c).len < c.data.max_response_length,
        "the length penalty must begin after the first token and before data.max_response_length",
        "Give a smaller len; DAPO uses a fifth of the limit.",
    ),
)

NO_PENALTY = Refusal(
    "reward.reward_kwargs.overlong_buffer_cfg.enable",
    overlong,
    "it reads only the verdict, so the length penalty would be lost (rewards=dapo sets it)",
)
# By the kind of the objective.
OBJECTIVES: dict[str, tuple[Refusal, ...]] = {
    "bapo": (
        Refusal(
            f"{ACTOR}.policy_loss.loss_mode",
            lambda c: c.actor_rollout_ref.actor.policy_loss.loss_mode != "vanilla",
            "it moves the bounds of PPO's clipped loss",
        ),
    ),
    "disco": (
        Refusal(
            "aggregation.rule",
            lambda c: c.aggregation.rule is not None,
            "its score is the mean over a response's tokens, so there is no aggregation to choose",
        ),
        Refusal(
            "advantage.name",
            lambda c: c.advantage.name != "none",
            "it compares correct with incorrect responses and has no advantages",
        ),
        Refusal(
            "aggregation.mask_truncated",
            lambda c: c.aggregation.mask_truncated,
            "groups without both verdicts add nothing to it and still count, as in the paper",
        ),
        Refusal(
            "aggregation.drop_zero_groups",
            lambda c: c.aggregation.drop_zero_groups,
            "groups without both verdicts add nothing to it and still count, as in the paper",
        ),
        Refusal(
            f"{ACTOR}.policy_loss.loss_mode",
            lambda c: c.actor_rollout_ref.actor.policy_loss.loss_mode != "vanilla",
            "it is a loss of its own and clips nothing",
        ),
        *(
            Refusal(
                key,
                lambda c, key=key: OmegaConf.select(c, key),
                "it has a constraint of its own (objective.disco.kl_limit) and no such term",
            )
            for key in (
                f"{ACTOR}.use_kl_loss",
                f"{ACTOR}.entropy_coeff",
                "algorithm.use_kl_in_reward",
            )
        ),
        *(
            Refusal(
                f"{CORRECTION}.{key}",
                lambda c, key=key: c.algorithm.rollout_correction[key] is not None,
                "its scores have no importance weights and no rejection",
            )
            for key in ("rollout_is", "rollout_rs")
        ),
        Refusal(
            f"{ACTOR}.shuffle",
            lambda c: c.actor_rollout_ref.actor.shuffle,
            "shuffled mini-batches would separate the groups that it compares within",
        ),
        NO_PENALTY,
    ),
}

OVERLONG = "overlong_reward"
NO_KL = Refusal(
    "algorithm.use_kl_in_reward",
    lambda c: c.algorithm.use_kl_in_reward,
    "the advantage is made of what the reward returned, which holds no KL term",
    f"Use {ACTOR}.use_kl_loss=true.",
)
# By the kind of the advantage.
ADVANTAGES: dict[str, tuple[Refusal, ...]] = {
    **dict.fromkeys(("batch_std", "opo", "shrinkage", "reinforce"), (NO_KL,)),
    "maxrl": (
        NO_KL,
        NO_PENALTY,
    ),
    "sgpo": (
        NO_KL,
        NO_PENALTY,
        Refusal(
            "algorithm.filter_groups.enable",
            lambda c: c.algorithm.filter_groups.enable,
            "it drops the groups of only incorrect responses before they are judged",
        ),
    ),
    "oblr": (
        NO_KL,
        Refusal(
            f"{CORRECTION}.bypass_mode",
            lambda c: c.algorithm.rollout_correction.bypass_mode,
            "it needs all probabilities of a token, which only a forward pass of the actor gives",
        ),
        Refusal(
            "actor_rollout_ref.model.use_fused_kernels",
            lambda c: c.actor_rollout_ref.model.use_fused_kernels,
            "it needs all probabilities of a token, which the fused kernels do not return",
        ),
    ),
    "gdpo": (
        NO_KL,
        Refusal(
            "reward.reward_kwargs.overlong_buffer_cfg.enable",
            lambda c: (
                overlong(c) and (OVERLONG not in c.advantage.gdpo.rewards or not overlong(c).log)
            ),
            "rewards=dapo adds a length penalty to the score, which the advantage does not read",
            f"Add +advantage.gdpo.rewards.{OVERLONG}=1 (and leave reward.reward_kwargs."
            f"overlong_buffer_cfg.log=true), or leave the penalty out.",
        ),
        Refusal(
            "aggregation.drop_zero_groups",
            lambda c: c.advantage.gdpo.statistics == "token" and c.aggregation.drop_zero_groups,
            "its token statistics move groups without variance off 0",
            "Use advantage=gdpo, or keep the groups.",
        ),
    ),
}

TOKEN_MICRO = (
    Refusal(
        f"{ACTOR}.shuffle",
        lambda c: c.actor_rollout_ref.actor.shuffle,
        "then the driver cannot tell the micro-batches",
    ),
)

# Beside `follow_snr`, which compares the gradients of two halves of a mini-batch.
FOLLOW_SNR = (
    Refusal(
        f"{ACTOR}.shuffle",
        lambda c: c.actor_rollout_ref.actor.shuffle,
        "shuffled rows would spread a group over both halves, which then are not independent",
    ),
    *(
        Refusal(
            key,
            lambda c, key=key: OmegaConf.select(c, key),
            "verl divides this term by the tokens of each half instead of the mini-batch's",
        )
        for key in (f"{ACTOR}.use_kl_loss", f"{ACTOR}.entropy_coeff")
    ),
    Refusal(
        "aggregation.rule",
        lambda c: c.aggregation.rule == MICRO,
        "verl packs the halves otherwise than the mini-batch",
        "Use aggregation=token_batch.",
    ),
    Refusal(
        "objective.name",
        lambda c: c.aggregation.rule is None,
        "its penalty is of the whole mini-batch, and no mean of two halves",
        "Use objective=policy_gradient.",
    ),
    Refusal(
        f"{ACTOR}.fsdp_config.dtype",
        lambda c: c.actor_rollout_ref.actor.fsdp_config.dtype in ("float16", "fp16"),
        "verl scales gradients in float16, by a scale that changes",
        "Use bfloat16.",
    ),
)


def check_verl_keys(config: DictConfig, settings: Settings) -> None:
    """Refuse values of verl's keys that would silently mean something else.

    Raises:
        UserError: there is one.
    """
    refuse(config, ALWAYS)
    objective, advantage = settings.objective, settings.advantage
    refuse(config, OBJECTIVES.get(objective.kind or "", ()), f"objective={objective.name}")
    refuse(config, ADVANTAGES.get(advantage.kind or "", ()), f"advantage={advantage.name}")
    if settings.aggregation.rule == MICRO:
        refuse(config, TOKEN_MICRO, f"aggregation={MICRO}")
    if settings.follow_snr is not None:
        refuse(config, FOLLOW_SNR, "follow_snr")
