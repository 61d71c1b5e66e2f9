"""Ordering a train batch for an objective that needs whole groups and verdicts."""

from types import SimpleNamespace

import pytest
import torch
from driver import responses
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recipe.objectives.base import Chosen
from recipe.objectives.disco import Disco, columns, packed


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


@st.composite
def batches(draw):
    """Groups of up to n rows, filled up with padding to whole mini-batches."""
    n, prompts, num = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ranks = draw(st.sampled_from([r for r in (1, 2, 3) if (prompts * n) % r == 0]))
    sizes = [n - draw(st.integers(0, 1)) for _ in range(prompts * num)]
    keys = [f"{g}_{s}_0" for g, size in enumerate(sizes) for s in range(size)]
    keys += [f"pad_{i}_0" for i in range(prompts * n * num - len(keys))]
    keys = draw(st.permutations(keys))
    tags = [
        {"is_padding": key.startswith("pad"), "seq_len": draw(st.integers(1, 50))} for key in keys
    ]
    config = {
        "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": prompts}, "rollout": {"n": n}},
    }
    return SimpleNamespace(keys=keys, tags=tags), OmegaConf.create(config), ranks, prompts * n


@given(batches())
def test_every_mini_batch_of_all_ranks_together_holds_whole_groups(batch):
    meta, config, ranks, size = batch
    parts = disco(config).order(meta.keys, meta.tags, ranks)
    assert sorted(row for part in parts for row in part) == list(range(len(meta.keys)))
    assert {len(part) for part in parts} == {len(meta.keys) // ranks}
    where = {}
    for part in parts:
        for place, row in enumerate(part):
            if not meta.tags[row]["is_padding"]:
                mini_batch = place // (size // ranks)
                where.setdefault(meta.keys[row].partition("_")[0], set()).add(mini_batch)
    assert all(len(mini_batches) == 1 for mini_batches in where.values())


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match="groups of 3 responses do not fit"):
        packed(torch.tensor([0, 0, 0, 1, 1, 1]), 2)


def test_aborted_responses_are_in_no_group():
    found = columns(responses(score_N=torch.tensor([1.0, 0, 0]), length_N=torch.tensor([3, 0, 2])))
    assert found["disco_group"].tolist() == [0, -1, 0]


def test_several_outputs_of_a_sample_are_refused():
    config = OmegaConf.create({"actor_rollout_ref": {}})
    meta = SimpleNamespace(keys=["a_0_0", "a_0_1"], tags=[{"seq_len": 1}] * 2)
    with pytest.raises(ValueError, match="several outputs of a sample"):
        disco(config).order(meta.keys, meta.tags, 1)


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
