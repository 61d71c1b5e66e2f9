"""Sizes of batches that verl would refuse during training, and those it takes."""

import pytest

from recipe.base.errors import UserError
from recipe.config.batches import check_batches, check_micro_batches, sequence_parallel
from recipe.config.checks import check_separate

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
OLD, NEW = (f"{ACTOR}.{section}ulysses_sequence_parallel_size" for section in ("", "fsdp_config."))
# 12 prompts of 8 responses: 96 rows, of at most 1024 tokens.
SIZES = [
    "cluster=gpu8",
    "data.train_batch_size=24",
    f"{ACTOR}.ppo_mini_batch_size=12",
    "data.max_prompt_length=256",
    "data.max_response_length=768",
]
STATIC = [f"{ACTOR}.use_dynamic_bsz=false"]


def budgets(size):
    keys = f"{ACTOR}.ppo_max_token_len_per_gpu", f"{ROLLOUT}.log_prob_max_token_len_per_gpu"
    return [f"{key}={size}" for key in keys]


@pytest.mark.parametrize(
    "accepted",
    [
        [],
        # Two ranks of four GPUs; verl divides by ranks.
        [f"{NEW}=4", f"{ROLLOUT}.n=3"],
        [f"{OLD}=4", f"{ROLLOUT}.n=3"],
        budgets(1024),
        [f"{NEW}=4", *budgets(256)],
        [*STATIC, f"{ACTOR}.ppo_micro_batch_size_per_gpu=6", *budgets(100)],
        [*STATIC, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=24"],
    ],
)
def test_what_divides_is_accepted(accepted, composed):
    config = composed(*SIZES, *accepted)
    check_batches(config)
    check_micro_batches(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([f"{ROLLOUT}.n=3"], "12 prompts x 3 responses does not divide over 8 ranks"),
        ([f"{NEW}=3"], "size is 3, which does not divide the 8 GPUs"),
        (budgets(1023), "ppo_max_token_len_per_gpu is 1023, with 1 .* 256 . 768 .* Use 1024"),
        ([f"{NEW}=4", *budgets(255)], "is 255, with 4 GPU.s. a sequence.* Use 256 or more"),
        ([budgets(100)[1]], "rollout.log_prob_max_token_len_per_gpu is 100"),
        (
            [*STATIC, f"{ACTOR}.ppo_micro_batch_size_per_gpu=8"],
            "actor.ppo_micro_batch_size_per_gpu is 8, .* the 12 rows of a rank",
        ),
        (
            [*STATIC, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=5"],
            "rollout.log_prob_micro_batch_size_per_gpu is 5, .* the 24 rows",
        ),
    ],
)
def test_what_does_not_divide_is_refused(changes, message, composed):
    config = composed(*SIZES, *changes)
    with pytest.raises(UserError, match=message):
        check_batches(config)
        check_micro_batches(config)


def test_the_older_key_of_ulysses_goes_first_as_in_verl(composed):
    for changes, expected in (([], 1), ([f"{OLD}=2"], 2), ([f"{NEW}=4", f"{OLD}=2"], 2)):
        assert sequence_parallel(composed(*SIZES, *changes)) == expected


SEPARATE = [
    "cluster=gpu8",
    "trainer.v1.trainer_mode=separate_async",
    f"{ACTOR}.ppo_mini_batch_size=4",
    "trainer.v1.separate_async.parameter_sync_step=2",
    f"{ROLLOUT}.nnodes=1",
    f"{ROLLOUT}.n_gpus_per_node=1",
    f"{ROLLOUT}.checkpoint_engine.backend=nccl",
]
OFFLOAD = f"{ACTOR}.fsdp_config.param_offload=true"


@pytest.mark.parametrize(
    "accepted",
    [
        [],
        [f"{ACTOR}.fsdp_config.optimizer_offload=true"],
        # FSDP1 makes a copy.
        [OFFLOAD, f"{ACTOR}.strategy=fsdp"],
        [OFFLOAD, "algorithm.rollout_correction.bypass_mode=true"],
    ],
)
def test_several_updates_between_syncs_are_accepted_where_verls_snapshot_is_a_copy(
    accepted, composed
):
    check_separate(composed(*SEPARATE, *accepted))


@pytest.mark.parametrize("key", ["param_offload", "offload_policy"])
def test_several_updates_between_syncs_are_refused_of_offloaded_parameters(key, composed):
    with pytest.raises(UserError, match=rf"\(actor.fsdp_config.{key}\): updates would be lost"):
        check_separate(composed(*SEPARATE, f"{ACTOR}.fsdp_config.{key}=true"))
