import itertools
import math
from functools import partial

import pytest
import torch

from recipe.maths.estimators import (
    ADVANTAGES,
    Estimate,
    Products,
    Rows,
    batches_of,
    estimates,
    leave_one_out,
    measures,
    noise_by_verdict,
    products,
)
from recipe.maths.rules import RULES, with_limit
from recipe.maths.within import centred_within

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
LIMIT = 50.0
BOUND = with_limit(LIMIT)


class Toy(torch.nn.Module):
    """Two layers that give each token of a row of inputs a log-probability."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)
        ).double()

    def forward(self, inputs, tokens):
        return self.layers(inputs).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def toy_responses(num_groups=8, group=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Toy()
    lengths = torch.randint(1, 9, (num_groups * group,), generator=generator)
    inputs = [torch.randn(n, 3, generator=generator).double() for n in lengths.tolist()]
    tokens = [torch.randint(5, (n,), generator=generator) for n in lengths.tolist()]
    scores = torch.randint(2, (num_groups * group,), generator=generator).double()
    rows = Rows(lengths, scores, torch.arange(num_groups).repeat_interleave(group))
    return model, inputs, tokens, rows


def flat(gradients):
    return torch.cat([part.flatten() for part in gradients])


@pytest.mark.parametrize("kind", ["std", "batch_std", "none"])
@pytest.mark.parametrize("name", sorted(RULES))
def test_products_are_those_of_batch_gradients_by_autograd(name, kind):
    """The gradient of each batch from the loss of its rule, at ratio 1, in one backward pass."""
    model, inputs, tokens, rows = toy_responses()
    parameters = list(model.parameters())
    log_probs = [partial(model, *pair) for pair in zip(inputs, tokens, strict=True)]
    single = torch.stack([flat(torch.autograd.grad(one().sum(), parameters)) for one in log_probs])
    batch_P = batches_of(8, 2, torch.Generator().manual_seed(1))
    found = products(single @ single.T, rows, {name: BOUND[name]}, kind, batch_P)

    of_rule, true = [], []
    for batch in range(4):
        chosen = [i for i, g in enumerate(rows.group_N.tolist()) if batch_P[g] == batch]
        score = rows.score_N[chosen].view(2, 4)
        centred = score - score.mean(1, keepdim=True)
        advantage = {
            "none": centred,
            "std": centred / (score.std(1, keepdim=True) + 1e-6),
            "batch_std": centred / (centred.std() + 1e-6),
        }[kind].flatten()
        weight = BOUND[name](rows.length_N[chosen], advantage, torch.tensor([0] * 4 + [1] * 4))
        others = (score.sum(1, keepdim=True) - score) / 3
        loss = reference = 0.0
        for place, i in enumerate(chosen):
            ratio = (log_probs[i]() - log_probs[i]().detach()).exp()
            loss += weight[place] * advantage[place] * ratio.sum() / 8
            reference += (score - others).flatten()[place] * log_probs[i]().sum() / 8
        of_rule.append(flat(torch.autograd.grad(loss, parameters)))
        true.append(flat(torch.autograd.grad(reference, parameters)))
    of_rule, true = torch.stack(of_rule), torch.stack(true)
    close(found.own_RBB[0], of_rule @ of_rule.T)
    close(found.with_true_RBB[0], of_rule @ true.T)
    close(found.true_BB, true @ true.T)


def test_groups_that_fill_no_batch_are_left_out():
    batch_P = batches_of(11, 3, torch.Generator().manual_seed(0))
    assert torch.bincount(batch_P + 1).tolist() == [2, 3, 3, 3]


def test_leaving_one_out_does_not_depend_on_the_score_itself():
    score = torch.tensor([1.0, 0.0, 0.0, 1.0, 3.0, 5.0])
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    expected = [1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3, -2.0, 2.0]
    close(leave_one_out(score, group), torch.tensor(expected, dtype=torch.double))
    close(centred_within(score, group).sum(), torch.zeros(()).double())


# ------------------------------------------------------------------ gradients with known moments

D, P, G = 12, 64, 4
CORRECT = 0.4


def simulated(generator, num_prompts, group=G):
    """Rows and gradients of a policy whose true gradient is known.

    A score function has mean 0. Here G_i = (r_i - p) / (p (1 - p)) * theta + (L_i - E[L|r]) * e
    + z with noise z, so the gradient of E r is E[r G] = theta. A weight that depends on the length
    within a sign finds something of e, too, which is bias.
    """
    num = num_prompts * group
    score = (torch.rand(num, generator=generator) < CORRECT).double()
    longer = torch.randint(0, 21, (num,), generator=generator)
    length = torch.where(score > 0, 10, 30) + longer
    theta, extra = torch.zeros(2, D).double()
    theta[0], extra[1] = 1.0, 1.0
    gradient = (
        ((score - CORRECT) / (CORRECT * (1 - CORRECT)))[:, None] * theta
        + (longer - 10)[:, None] * extra
        + torch.randn(num, D, generator=generator).double() * length.sqrt()[:, None] / 4
    )
    rows = Rows(length, score, torch.arange(num_prompts).repeat_interleave(group))
    return rows, gradient, theta


NAMES = ("constant", "sequence", "token", "balanced", "balanced_batch")


@pytest.fixture(scope="module")
def expected_gradients():
    """The expected batch gradient of each rule, from many batches."""
    rows, gradient, true = simulated(torch.Generator().manual_seed(99), 24_000)
    found = {}
    for name in NAMES:
        total = torch.zeros(D).double()
        # Rules see 8 groups at a time, as in the test.
        for begin in range(0, 24_000 * G, 8 * G):
            part = slice(begin, begin + 8 * G)
            group = rows.group_N[part] - rows.group_N[part][0]
            advantage = centred_within(rows.score_N[part], group)
            weight = BOUND[name](rows.length_N[part], advantage, group)
            total += (weight * advantage) @ gradient[part] / (8 * G)
        found[name] = total / (24_000 / 8)
    return found, true


def one_estimate(seed, partitions=2):
    generator = torch.Generator().manual_seed(seed)
    rows, gradient, _ = simulated(generator, P)
    drawn = [batches_of(P, 8, generator) for _ in range(partitions)]
    rules = {name: BOUND[name] for name in NAMES}
    gram = gradient @ gradient.T
    return estimates([products(gram, rows, rules, "none", batch) for batch in drawn])


@pytest.fixture(scope="module")
def many_estimates():
    return [one_estimate(seed) for seed in range(60)]


def test_bias_is_corrected_for_noise_and_intervals_hold_the_truth(
    expected_gradients, many_estimates
):
    """The naive cosine of noisy means is far below; ours is centred on the truth."""
    means, true = expected_gradients
    cosine = torch.stack([torch.cosine_similarity(means[name], true, 0) for name in NAMES])
    assert cosine[0] > 0.999
    assert cosine.min() < 0.95
    found = [one["cosine"] for one in many_estimates]
    value = torch.stack([one.value_R for one in found])
    error = torch.stack([one.standard_error() for one in found])
    spread = value.std(0) / math.sqrt(len(found))
    assert ((value.mean(0) - cosine).abs() < 4 * spread + 0.01).all()
    # `constant` without std has the true gradient up to a factor, in each batch.
    assert (value[:, 0] - 1).abs().max() < 1e-9
    inside = ((value - cosine).abs() < 2.4 * error)[:, 1:].double().mean()
    assert inside > 0.85


def test_signal_and_gain_are_those_of_many_batches(expected_gradients, many_estimates):
    means, true = expected_gradients
    found = many_estimates
    rows, gradient, _ = simulated(torch.Generator().manual_seed(5), 8 * 1000)
    for place, name in enumerate(NAMES):
        batches = []
        for begin in range(0, len(rows.length_N), 8 * G):
            part = slice(begin, begin + 8 * G)
            group = rows.group_N[part] - rows.group_N[part][0]
            advantage = centred_within(rows.score_N[part], group)
            weight = BOUND[name](rows.length_N[part], advantage, group)
            batches.append((weight * advantage) @ gradient[part] / (8 * G))
        batches = torch.stack(batches)
        square = batches.square().sum(1)
        signal = means[name].square().sum()
        along = batches @ true / true.norm()
        expected = {
            "snr": signal / (square.mean() - signal),
            "gain_own_norm": (along / square.sqrt()).mean(),
            "gain_rms": along.mean() / square.mean().sqrt(),
            "gain_rms_4": along.mean() / (signal + (square.mean() - signal) / 4).sqrt(),
            "norm": square.mean().sqrt(),
        }
        for key, value in expected.items():
            every = torch.stack([one[key].value_R[place] for one in found])
            error = every.std() / math.sqrt(len(every))
            assert abs(every.mean() - value) < 5 * error + 0.03 * value, (name, key)


def test_a_rule_differs_from_itself_by_nothing():
    difference = one_estimate(3)["gain_rms"].standard_error(baseline=2)
    assert difference[2] == 0 and (difference[[0, 1, 3, 4]] > 0).all()


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0)).double()
    left = torch.stack([(values.sum() - x) / 19 for x in values])[:, None]
    found = Estimate(values.mean()[None], [left]).standard_error()
    close(found, values.std()[None] / math.sqrt(20))


def test_batches_without_a_gradient_gain_nothing():
    """Two batches have the true gradient, two have none."""
    own = torch.zeros(1, 4, 4).double()
    own[0, :2, :2] = 1.0
    with_true = torch.zeros(1, 4, 4).double()
    with_true[0, :2] = 1.0
    true = torch.ones(4, 4).double()
    found = measures(Products(own, with_true, true, with_true, true))
    assert found["gain_own_norm"].item() == pytest.approx(0.5)


def test_noise_is_told_apart_by_verdict_with_its_growth_in_length():
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(5, 80, (4000,), generator=generator)
    score = torch.tensor([1.0, -1.0]).repeat(2000)
    noise = 1 + 0.1 * torch.randn(4000, generator=generator).double()
    square = torch.where(score > 0, length.double(), 0.1 * length.double() ** 2) * noise.abs()
    found = noise_by_verdict(square, Rows(length, score, torch.arange(2000).repeat_interleave(2)))
    assert found["slope_correct"] == pytest.approx(1, abs=0.02)
    assert found["slope_incorrect"] == pytest.approx(2, abs=0.02)
    assert found["square_correct"] == pytest.approx(square[score > 0].mean().item())


# ------------------------------------------------------------------ docs/theory.md


def policy_gradients(logits, lengths):
    """Score functions of a softmax over whole responses, (responses, parameters)."""
    return torch.eye(len(lengths)).double() - logits.softmax(0)


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, 0.2), (0.1, 1.0)])
def test_factors_by_sign_leave_the_direction_of_the_expected_gradient(factors):
    """Exactly, over all groups of three responses of a small policy (theory, section 2)."""
    logits = torch.tensor([0.3, -0.5, 0.8, 0.1]).double()
    probability = logits.softmax(0)
    gradient = policy_gradients(logits, torch.tensor([3, 5, 8, 12]))
    score = torch.tensor([1.0, 0.0, 0.0, 1.0]).double()
    true = (probability * score) @ gradient
    group = torch.zeros(3, dtype=torch.long)
    for kind in ("none", "std"):
        total = torch.zeros(4).double()
        for responses in itertools.product(range(4), repeat=3):
            picked = torch.tensor(responses)
            advantage = ADVANTAGES[kind](Rows(score[picked], score[picked], group))
            factor = torch.where(advantage > 0, *factors).double()
            chance = probability[picked].prod()
            total += chance * (factor * advantage) @ gradient[picked] / 3
        assert torch.cosine_similarity(total, true, 0).item() == pytest.approx(1, abs=1e-12)


def test_the_best_factor_of_a_sign_is_one_over_its_variance():
    """SNR(c) from theory, section 3, on simulated gradients, and its maximum."""
    p, variance = 0.3, {1: 2.0, -1: 8.0}

    def theory(c):
        signal = (c[1] * (1 - p) + c[-1] * p) ** 2
        return signal / ((1 - p) * c[1] ** 2 * variance[1] + p * c[-1] ** 2 * variance[-1])

    best = {1: 1 / variance[1], -1: 1 / variance[-1]}
    for factor in (0.05, 0.1, 0.5, 1.0):
        assert theory({1: 1.0, -1: factor}) <= theory(best)
    # In large groups, where the advantage hardly depends on chance.
    generator = torch.Generator().manual_seed(0)
    num = 64 * 64
    score = (torch.rand(num, generator=generator) < p).double()
    rows = Rows(torch.ones(num).long(), score, torch.arange(64).repeat_interleave(64))
    mean = torch.where(score > 0, 1 - p, -p)[:, None] * torch.eye(1, 400).double()
    spread = torch.where(score > 0, variance[1], variance[-1]).sqrt()[:, None] / 20
    gradient = 0.5 * mean + spread * torch.randn(num, 400, generator=generator).double()
    rules = {
        str(factor): lambda length, a, group, f=factor: torch.where(a > 0, 1.0, f).double()
        for factor in (1.0, 0.25, 0.05)
    }
    batch_P = batches_of(64, 1, generator)
    found = estimates([products(gradient @ gradient.T, rows, rules, "none", batch_P)])["snr"]
    ratio = found.value_R / found.value_R[0]
    for place, factor in enumerate(rules):
        expected = theory({1: 1.0, -1: float(factor)}) / theory({1: 1.0, -1: 1.0})
        assert ratio[place].item() == pytest.approx(expected, rel=0.1)


def test_balancing_and_the_baseline_of_opo_are_one_choice_up_to_a_factor_of_the_group():
    """A_i = r_i - sum L r / sum L with equal weights, against A_i = r_i - mean r, balanced."""
    length_N = torch.tensor([3, 9, 4, 30, 12, 21])
    score_N = torch.tensor([1, 1, 0, 0, 0, 1]).double()
    group_N = torch.zeros(6, dtype=torch.long)
    opo_N = score_N - (length_N * score_N).sum() / length_N.sum()
    mean_N = score_N - score_N.mean()
    balanced_N = RULES["balanced"](length_N, mean_N, group_N) * mean_N
    correct, incorrect = (length_N[score_N == r].double().mean() for r in (1, 0))
    # `constant` at limit 1 gives every response the weight 1.
    constant_N = with_limit(1.0)["constant"](length_N, opo_N, group_N) * opo_N
    close(constant_N, balanced_N * correct * incorrect / length_N.double().mean())
    close((opo_N * length_N).sum(), torch.tensor(0.0).double())
