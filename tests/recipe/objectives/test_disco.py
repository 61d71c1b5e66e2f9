"""Ordering a train batch for an objective that needs whole groups and verdicts."""

import pytest
import torch
from driver import responses

from recipe.objectives.base import Chosen
from recipe.objectives.disco import Disco, columns


def disco(config):
    """Begin DisCO under a config of verl."""
    return Disco(Chosen(None, None, None, config))


def test_graded_scores_are_refused_by_disco():
    scores = torch.tensor([0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"scores 0, 0.5, 1. .* objective=policy_gradient"):
        columns(responses(score_N=scores))
    # Two prompts, of data sources with different scales.
    found = columns(
        responses(score_N=torch.tensor([-1.0, 1, 0, 1]), group_N=torch.tensor([0, 0, 1, 1]))
    )
    assert found["disco_correct"].tolist() == [0, 1, 0, 1]


def test_aborted_responses_are_in_no_group():
    found = columns(responses(score_N=torch.tensor([1.0, 0, 0]), length_N=torch.tensor([3, 0, 2])))
    assert found["disco_group"].tolist() == [0, -1, 0]


ACTOR = "actor_rollout_ref.actor"


@pytest.mark.parametrize(
    ("overrides", "num_rows", "expected"),
    [
        ([], 64, True),
        # An agent loop with several outputs a sample makes more rows, and then more updates.
        ([], 128, False),
        ([f"{ACTOR}.ppo_epochs=2"], 64, False),
        ([f"{ACTOR}.ppo_mini_batch_size=4"], 64, False),
        (["algorithm.rollout_correction.bypass_mode=true"], 64, False),
        (
            [
                "trainer.v1.trainer_mode=separate_async",
                "trainer.v1.separate_async.parameter_sync_step=1",
            ],
            64,
            True,
        ),
        (
            [
                "trainer.v1.trainer_mode=separate_async",
                "trainer.v1.separate_async.parameter_sync_step=2",
            ],
            64,
            False,
        ),
    ],
)
def test_a_batch_is_on_policy_if_it_makes_one_update_from_the_trainers_log_probs(
    overrides, num_rows, expected, composed
):
    assert disco(composed(*overrides)).is_on_policy(num_rows) is expected
