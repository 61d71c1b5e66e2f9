"""Ordering a train batch such that parts of it hold complete groups."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipe.training.order import complete_groups, packed


@st.composite
def batches(draw):
    """Groups of up to n rows, filled up with padding to whole parts."""
    n, prompts, num = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    ranks = draw(st.sampled_from([r for r in (1, 2, 3) if (prompts * n) % r == 0]))
    sizes = [n - draw(st.integers(0, 1)) for _ in range(prompts * num)]
    keys = [f"{g}_{s}_0" for g, size in enumerate(sizes) for s in range(size)]
    keys += [f"pad_{i}_0" for i in range(prompts * n * num - len(keys))]
    keys = draw(st.permutations(keys))
    tags = [
        {"is_padding": key.startswith("pad"), "seq_len": draw(st.integers(1, 50))} for key in keys
    ]
    return SimpleNamespace(keys=keys, tags=tags), ranks, prompts * n


@given(batches())
def test_every_part_of_all_ranks_together_holds_whole_groups(batch):
    meta, ranks, size = batch
    found = complete_groups(meta.keys, meta.tags, ranks, size, "x")
    assert sorted(row for part in found for row in part) == list(range(len(meta.keys)))
    assert {len(part) for part in found} == {len(meta.keys) // ranks}
    where = {}
    for part in found:
        for place, row in enumerate(part):
            if not meta.tags[row]["is_padding"]:
                number = place // (size // ranks)
                where.setdefault(meta.keys[row].partition("_")[0], set()).add(number)
    assert all(len(numbers) == 1 for numbers in where.values())


@given(batches(), st.randoms())
def test_the_same_groups_are_together_in_whatever_order_they_arrive(batch, random):
    """Groups of the same lengths may stand for each other."""
    meta, ranks, size = batch
    order = list(range(len(meta.keys)))
    random.shuffle(order)
    other = [meta.keys[row] for row in order], [meta.tags[row] for row in order]
    found = []
    for keys, tags in ((meta.keys, meta.tags), other):
        order_of_ranks = complete_groups(keys, tags, ranks, size, "x")
        parts = [
            [row for rank in order_of_ranks for row in rank[begin : begin + size // ranks]]
            for begin in range(0, len(keys) // ranks, size // ranks)
        ]
        found.append([sorted(tags[row]["seq_len"] for row in part) for part in parts])
    assert found[0] == found[1]


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError, match=r"groups of 3 responses do not fit .* follow_snr needs"):
        packed(torch.tensor([0, 0, 0, 1, 1, 1]), 2, "follow_snr")


def test_several_outputs_of_a_sample_are_refused():
    with pytest.raises(ValueError, match="several outputs of a sample, but disco_logl"):
        complete_groups(["a_0_0", "a_0_1"], [{"seq_len": 1}] * 2, 1, 2, "disco_logl")
