"""The advantages without settings, each beside its equation written out response by response."""

from collections.abc import Sequence
from statistics import fmean, stdev, variance

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import compute_opo_outcome_advantage

from recipe.maths.advantages.base import Scored
from recipe.maths.advantages.batch_std import BatchStd, batch_std_advantages
from recipe.maths.advantages.maxrl import MaxRl
from recipe.maths.advantages.oblr import Oblr
from recipe.maths.advantages.opo import Opo
from recipe.maths.advantages.reinforce import Reinforce
from recipe.maths.advantages.shrinkage import Shrinkage, shrinkage_advantages
from recipe.maths.rules import RULES, with_limit
from recipe.maths.within import centred_by_weight

Batch = tuple[list[float], list[int], list[int]]


@st.composite
def batches(draw) -> Batch:
    """Draw scores, lengths and groups of unequal size, in any order."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=2, max_size=4))
    groups = draw(st.permutations([g for g, size in enumerate(sizes) for _ in range(size)]))
    num = len(groups)
    scores = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=num, max_size=num))
    lengths = draw(st.lists(st.integers(1, 30), min_size=num, max_size=num))
    return scores, lengths, groups


def squares(batch: Batch) -> list[float]:
    """Return numbers that differ from the lengths, and from each other."""
    return [length * (0.2 + 0.1 * i) for i, length in enumerate(batch[1])]


def scored(batch: Batch) -> Scored:
    scores, lengths, groups = map(torch.tensor, batch)
    return Scored(
        advantage_N=torch.zeros(len(scores)),
        score_N=scores,
        correct_N=scores > 0,
        length_N=lengths,
        num_tokens_N=lengths,
        group_N=groups,
        info_N=[{}] * len(scores),
        square_N=torch.tensor(squares(batch)),
    )


def members(batch: Batch, group: int) -> list[int]:
    return [i for i, other in enumerate(batch[2]) if other == group]


def batch_std(batch: Batch) -> list[float]:
    scores, _, groups = batch
    means = [fmean(scores[j] for j in members(batch, group)) for group in groups]
    centred = [score - mean for score, mean in zip(scores, means, strict=True)]
    return [one / (stdev(centred) + 1e-6) for one in centred]


def maxrl(batch: Batch) -> list[float]:
    correct = [float(s > 0) for s in batch[0]]
    shares = [fmean(correct[j] for j in members(batch, g)) for g in batch[2]]
    return [(one - p) / (p + 1e-6) for one, p in zip(correct, shares, strict=True)]


def opo(batch: Batch) -> list[float]:
    return minus_weighted_mean(batch, batch[1])


def oblr(batch: Batch) -> list[float]:
    return minus_weighted_mean(batch, squares(batch))


def minus_weighted_mean(batch: Batch, weights: Sequence[float]) -> list[float]:
    scores, _, groups = batch
    found = []
    for score, group in zip(scores, groups, strict=True):
        own = members(batch, group)
        total = sum(weights[j] for j in own)
        found.append(score - sum(weights[j] * scores[j] for j in own) / total)
    return found


def shrinkage(batch: Batch) -> list[float]:
    scores, _, groups = batch
    found = []
    for i, group in enumerate(groups):
        other = [scores[j] for j in members(batch, group) if j != i]
        elsewhere = [[scores[j] for j in members(batch, g)] for g in set(groups) - {group}]
        means = [fmean(one) for one in elsewhere]
        error = fmean(variance(one) / len(one) for one in elsewhere)
        distance = fmean((mean - fmean(means)) ** 2 for mean in means)
        part = error / (error + distance + 1e-8)
        mean_elsewhere = fmean(score for one in elsewhere for score in one)
        found.append(scores[i] - (1 - part) * fmean(other) - part * mean_elsewhere)
    return found


def reinforce(batch: Batch) -> list[float]:
    return batch[0]


KINDS = [
    (BatchStd, batch_std),
    (MaxRl, maxrl),
    (Opo, opo),
    (Oblr, oblr),
    (Shrinkage, shrinkage),
    (Reinforce, reinforce),
]


@pytest.mark.parametrize(("kind", "reference"), KINDS)
@given(batch=batches())
def test_advantages_are_those_of_the_equation(kind, reference, batch):
    found, _ = kind(None)(scored(batch))
    assert found.tolist() == pytest.approx(reference(batch), rel=1e-6, abs=1e-7)


@given(batches())
def test_where_the_group_is_the_baseline_equal_scores_have_advantages_of_exactly_0(batch):
    scores, lengths, groups = batch
    scores = [scores[groups.index(group)] for group in groups]
    for kind in (BatchStd, MaxRl, Opo, Oblr):
        assert not kind(None)(scored((scores, lengths, groups)))[0].any()


@given(batches())
def test_opo_is_that_of_verl(batch):
    scores, lengths, groups = batch
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).double()
    reward = torch.zeros_like(mask)
    reward[range(len(scores)), [length - 1 for length in lengths]] = torch.tensor(scores).double()
    theirs, _ = compute_opo_outcome_advantage(reward, mask, groups)
    ours, _ = Opo(None)(scored(batch))
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-9, atol=1e-9)


@given(batches())
def test_under_opo_every_group_is_balanced_by_rules_that_are_equal_within_it(batch):
    """At ratio 1 the loss of a group is - sum w A L: 0 under these rules, not under others."""
    score, length, group = map(torch.tensor, batch)
    advantage = centred_by_weight(score, length, group)
    rules = with_limit(50.0)

    def losses(rule: str) -> torch.Tensor:
        term = rules[rule](length, advantage, group) * advantage * length
        return torch.bincount(group, weights=term)

    for rule in ("token", "token_batch", "constant"):
        assert losses(rule).abs().max() < 1e-9


def test_under_opo_sequence_and_balanced_bring_the_coupling_back():
    length, group = torch.tensor([10, 10, 40, 40]), torch.zeros(4, dtype=torch.long)
    advantage = centred_by_weight(torch.tensor([1.0, 1.0, -1.0, -1.0]), length, group)
    for rule in ("sequence", "balanced"):
        assert (RULES[rule](length, advantage, group) * advantage * length).sum() > 1


def test_the_gradient_weighted_baseline_has_the_least_variance():
    """Two responses, drawn often: one of a large gradient, the other sure of its tokens.

    The estimate (r - b) * g has the least mean square at b = E[g^2 r] / E[g^2].
    """
    score, square = torch.tensor([1.0, -1.0]), torch.tensor([0.1, 1.6])
    group = torch.zeros(2, dtype=torch.long)
    best = score - centred_by_weight(score, square, group)

    def variance_at(baseline: torch.Tensor) -> float:
        return (((score - baseline) ** 2) * square).mean().item()

    for other in (0.0, score.mean().item(), 0.1, best[0].item() - 0.01, best[0].item() + 0.01):
        assert variance_at(best) < variance_at(torch.tensor(other))


def test_batch_std_gives_prompts_the_weight_of_their_spread():
    """GRPO makes the groups 1:7 and 4:4 equally large; their own spread is .35 and .53."""
    score = torch.tensor([1.0] + [0.0] * 7 + [1.0] * 4 + [0.0] * 4)
    group = torch.arange(2).repeat_interleave(8)
    found = batch_std_advantages(score, group)
    spread = [found[group == g].std().item() for g in range(2)]
    assert spread[0] / spread[1] == pytest.approx((7 / 8 / 7) ** 0.5 / (2 / 7) ** 0.5)


def test_a_shrinkage_baseline_takes_all_of_the_batch_where_prompts_are_alike():
    """Equal means leave nothing to tell the prompts apart; equal scores within, all of it."""
    group = torch.arange(3).repeat_interleave(4)
    _, alike = shrinkage_advantages(torch.tensor([1.0, 1.0, 0.0, 0.0] * 3), group)
    assert alike.tolist() == pytest.approx([1.0] * 3, abs=1e-6)
    _, apart = shrinkage_advantages(torch.tensor([1.0] * 4 + [0.0] * 4 + [0.5] * 4), group)
    assert apart.tolist() == [0.0] * 3


def test_a_shrinkage_baseline_of_one_group_or_one_response_is_what_is_left():
    one_group, _ = shrinkage_advantages(torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3).long())
    assert one_group.tolist() == pytest.approx([1.0, -0.5, -0.5])
    score, group = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 1, 1, 1])
    alone, _ = shrinkage_advantages(score, group)
    assert alone[0].item() == pytest.approx(1 - 1 / 3)
