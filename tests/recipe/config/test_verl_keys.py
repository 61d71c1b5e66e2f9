"""Values of verl's keys that do not go with an option of this project."""

import pytest

from recipe.base.errors import UserError
from recipe.config.checks import check_config
from recipe.config.compose import resolve

ACTOR = "actor_rollout_ref.actor"
SNR, SGPO = "follow_snr=0.9", ["advantage=sgpo", "step_judge.kind=arithmetic"]


@pytest.mark.parametrize(
    ("overrides", "found", "allowed"),
    [
        (["follow_snr=1.0"], "follow_snr is 1, but", "from 0 to below 1"),
        (
            [SNR, f"{ACTOR}.ppo_mini_batch_size=1"],
            "ppo_mini_batch_size is 1 with",
            "an even number",
        ),
        ([SNR, f"{ACTOR}.shuffle=true"], "does not go with follow_snr: shuffled rows", "Remove"),
        ([SNR, f"{ACTOR}.entropy_coeff=0.1"], "entropy_coeff is 0.1 and", "tokens of each half"),
        ([SNR, f"{ACTOR}.use_kl_loss=true"], "use_kl_loss is true and", "tokens of each half"),
        ([SNR, f"{ACTOR}.fsdp_config.dtype=float16"], "dtype is float16 and", "Use bfloat16"),
        ([SNR, "aggregation=token_micro"], "packs the halves otherwise", "token_batch"),
        ([SNR, "objective=disco_logl"], "penalty is of the whole", "objective=policy_gradient"),
        (
            [SNR, f"{ACTOR}.use_dynamic_bsz=false", f"{ACTOR}.ppo_micro_batch_size_per_gpu=64"],
            "divide the 32 rows of a rank in half",
            "a divisor of 32",
        ),
        (
            ["aggregation=token_micro", f"{ACTOR}.shuffle=true"],
            "shuffle is true and does not go with aggregation=token_micro",
            "cannot tell the micro-batches",
        ),
        (
            [*SGPO, "algorithm.filter_groups.enable=true"],
            "filter_groups.enable is true and does not go with advantage=sgpo",
            "before they are judged",
        ),
        (["advantage=sgpo"], "needs a judge of steps, but step_judge.kind is null", "arithmetic"),
        (["step_judge.kind=server"], "is server, but advantage=grpo asks no", "advantage=sgpo"),
        (
            ["advantage=oblr", "algorithm.rollout_correction.bypass_mode=true"],
            "bypass_mode is true and does not go with advantage=oblr",
            "forward pass of the actor",
        ),
        (
            ["advantage=oblr", "actor_rollout_ref.model.use_fused_kernels=true"],
            "use_fused_kernels is true and does not go with advantage=oblr",
            "fused kernels do not return",
        ),
    ],
)
def test_what_does_not_go_with_an_option_is_refused(overrides, found, allowed, composed):
    if "algorithm.rollout_correction.bypass_mode=true" in overrides:
        overrides = [*overrides, "actor_rollout_ref.rollout.calculate_log_probs=true"]
    config = composed(*overrides)
    resolve(config)
    with pytest.raises(UserError) as error:
        check_config(config)
    assert found in str(error.value)
    assert allowed in str(error.value)


def test_a_checkpoint_without_the_averages_is_refused(composed, tmp_path):
    (tmp_path / "global_step_3" / "actor").mkdir(parents=True)
    start = f"trainer.resume_from_path={tmp_path}/global_step_3"
    config = composed(SNR, "trainer.resume_mode=resume_path", start)
    resolve(config)
    with pytest.raises(UserError, match=r"has no signal.json: .* set follow_snr=null"):
        check_config(config)


def test_the_learning_rate_may_follow_with_every_advantage(composed):
    for advantage in ("grpo", "oblr", "gdpo"):
        config = composed(SNR, f"advantage={advantage}")
        resolve(config)
        check_config(config)
