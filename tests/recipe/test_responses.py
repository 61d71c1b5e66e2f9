"""Reading a train batch, and ordering it for an objective that needs whole groups."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recipe.columns import final_rows, spread
from recipe.responses import Responses, disco_columns, packed, whole_groups


def responses(**columns):
    num = len(columns["score_N"])
    base = {
        "length_N": torch.ones(num, dtype=torch.long), "advantage_N": torch.zeros(num),
        "right_N": columns["score_N"] > 0, "truncated_N": torch.zeros(num) > 0,
        "group_N": torch.zeros(num, dtype=torch.long), "real_N": torch.ones(num) > 0,
        "final_N": torch.arange(num), "info_N": [{}] * num, "mask_NT": None, "tokens_NT": None,
    }  # fmt: skip
    return Responses(**base | columns)


def test_every_output_of_a_sample_leads_to_its_last():
    keys = ["a_0_1", "b-7_10_0", "a_0_0", "a_1_0", "a_0_10"]
    assert final_rows(keys).tolist() == [4, 1, 4, 3, 4]


def test_a_number_per_response_lies_on_its_trained_tokens():
    mask = torch.nested.as_nested_tensor(
        [torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0])], layout=torch.jagged
    )
    found = spread(torch.tensor([2.0, -3.0]), mask)
    assert [row.tolist() for row in found.unbind()] == [[2.0, 0.0, 2.0], [-3.0]]
    assert found.to_padded_tensor(0.0).shape == (2, 3)


def test_advantages_are_of_samples_and_all_their_outputs_have_them():
    """Rows 0 and 1 are outputs of one sample, row 3 is padding."""
    rows = responses(
        score_N=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        group_N=torch.tensor([5, 5, 5, 6]),
        final_N=torch.tensor([1, 1, 2, 3]),
        real_N=torch.tensor([True, True, True, False]),
        length_N=torch.tensor([4, 0, 2, 0]),
        info_N=[{"format": 0.0}, {"format": 1.0}, {"format": 0.0}, {}],
    )
    scored = rows.scored()
    assert scored.score_N.tolist() == [1.0, 0.0]
    assert scored.group_N.tolist() == [0, 0]
    assert scored.components["format"].tolist() == [1.0, 0.0]
    found = rows.with_advantages(torch.tensor([0.5, -0.5]).double())
    # Row 1 has no trained token.
    assert found.advantage_N.tolist() == [0.5, 0.0, -0.5, 0.0]


def test_graded_scores_are_refused_by_disco():
    scores = torch.tensor([0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"scores 0, 0.5, 1. .* objective=policy_gradient"):
        disco_columns(responses(score_N=scores))
    # Two prompts, of data sources with different scales.
    columns = disco_columns(
        responses(score_N=torch.tensor([-1.0, 1, 0, 1]), group_N=torch.tensor([0, 0, 1, 1]))
    )
    assert columns["disco_right"].tolist() == [0, 1, 0, 1]


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
        "trainer": {"n_gpus_per_node": ranks, "nnodes": 1},
        "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": prompts}, "rollout": {"n": n}},
    }
    return SimpleNamespace(keys=keys, tags=tags), OmegaConf.create(config), ranks, prompts * n


@settings(deadline=None)
@given(batches())
def test_every_mini_batch_of_all_ranks_together_holds_whole_groups(batch):
    meta, config, ranks, size = batch
    order = whole_groups(meta, config)
    assert sorted(order) == list(range(len(meta.keys)))
    per_rank, part = len(order) // ranks, size // ranks
    where = {}
    for place, row in enumerate(order):
        mini_batch = place % per_rank // part
        if not meta.tags[row]["is_padding"]:
            where.setdefault(meta.keys[row].partition("_")[0], set()).add(mini_batch)
    assert all(len(mini_batches) == 1 for mini_batches in where.values())


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match=r"groups of \[3\] responses do not fit"):
        packed(torch.tensor([0, 0, 0, 1, 1, 1]), 2)
