"""Which responses share a micro-batch, against verl's own packing."""

import driver
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.utils.seqlen_balancing import rearrange_micro_batches

from recipe.objectives.policy_gradient import MICRO_COLUMN, MICRO_SIZE_COLUMN, WEIGHT_COLUMN
from recipe.training.packing import micro_batches

ACTOR = "actor_rollout_ref.actor"


def split(size, **actor):
    """A config of mini-batches of `size` responses."""
    settings = {
        "shuffle": False,
        "ppo_mini_batch_size": size // 2,
        "use_dynamic_bsz": True,
        "ulysses_sequence_parallel_size": 1,
        "fsdp_config": {"ulysses_sequence_parallel_size": 1},
    }
    return OmegaConf.create({"actor_rollout_ref": {"actor": settings | actor, "rollout": {"n": 2}}})


def of_verl(lengths, limit, num=None):
    """verl's micro-batches of one rank's mini-batch, as sets of rows."""
    rows = [torch.full((length,), place) for place, length in enumerate(lengths)]
    ids = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    data = TensorDict({"input_ids": ids}, batch_size=len(rows))
    found = rearrange_micro_batches(data, limit, min_num_micro_batch=num)[1]
    return {frozenset(part) for part in found}


def as_sets(micro_N, begin=0):
    return {
        frozenset((micro_N == number).nonzero()[:, 0].add(begin).tolist())
        for number in micro_N.unique()
    }


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).flatmap(
        lambda some: st.tuples(st.just(some * 2), st.integers(max(some), 90))
    )
)
def test_one_rank_packs_as_verl_does(found):
    lengths, limit = found
    config = split(len(lengths), ppo_max_token_len_per_gpu=limit)
    micro_N = micro_batches(torch.tensor(lengths), 1, config)
    assert as_sets(micro_N) == of_verl(lengths, limit)


def test_all_ranks_make_as_many_micro_batches_as_the_fullest():
    """Rows 0, 1, 4 and 5 are the first mini-batch; the second needs fewer micro-batches."""
    lengths = [3, 4, 9, 9, 30, 31, 9, 9]
    config = split(4, ppo_max_token_len_per_gpu=40)
    micro_N = micro_batches(torch.tensor(lengths), 2, config)
    for rows, num in (((0, 1), 2), ((4, 5), 2), ((2, 3), 1), ((6, 7), 1)):
        begin, end = rows[0], rows[1] + 1
        found = as_sets(micro_N[begin:end])
        assert found == of_verl(lengths[begin:end], 40, num) and len(found) == num
    assert micro_N.unique().tolist() == list(range(6))


def test_without_a_budget_rows_are_packed_in_order():
    config = split(4, use_dynamic_bsz=False, ppo_micro_batch_size_per_gpu=2)
    assert micro_batches(torch.ones(8), 1, config).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert micro_batches(torch.ones(7), 1, config) is None


def test_each_response_is_weighted_by_its_micro_batch(monkeypatch, composed):
    """Padding is packed as well, and is not among the responses that are averaged."""
    rows = driver.Rows(
        ["a", "a", "b", "b", "c", "pad"],
        [3, 5, 4, 8, 6, 1],
        [1.0, -1.0, 1.0, -1.0, 0.0, 0.0],
        [1.0, -1.0, 1.0, -1.0, 0.0, 0.0],
    )
    actor = "ppo_mini_batch_size=3", "use_dynamic_bsz=false", "ppo_micro_batch_size_per_gpu=2"
    overrides = (f"{ACTOR}.{override}" for override in actor)
    config = composed("actor_rollout_ref.rollout.n=2", *overrides)
    config.aggregation.rule = "token_micro"
    put, metrics = driver.add_columns(monkeypatch, config, rows)
    # 5 of 6 rows count.
    expected = torch.tensor([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6, 0]) * 6 / 5
    torch.testing.assert_close(put[WEIGHT_COLUMN], expected)
    assert put[MICRO_COLUMN].tolist() == [0, 0, 1, 1, 2, 2]
    assert put[MICRO_SIZE_COLUMN].tolist() == [2] * 6
    name = "aggregation/objective_share_negative"
    expected = pytest.approx((5 / 4 + 8 / 6) / (8 / 4 + 12 / 6))
    assert metrics[f"{name}/token_micro"] == metrics[name] == expected
    config.aggregation.rule = "token"
    _, others = driver.add_columns(monkeypatch, config, rows)
    assert f"{name}/token_micro" not in others


def test_unknown_micro_batches_are_refused(monkeypatch, composed):
    with pytest.raises(RuntimeError, match="do not fill mini-batches"):
        driver.add_columns(monkeypatch, composed("aggregation=token_micro"))
