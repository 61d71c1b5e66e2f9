"""Aggregation rules: how the token losses of a batch become one number.

Every rule is one weight per response; the loss of a batch of N responses is

    L = (1/N) * sum_i w_i * sum_t mask_it * loss_it          w_i = 1 / (reference length of i)

and the rules differ in the reference length alone. A rule is a function of the responses' lengths,
advantages and groups; what else it needs (a limit, a learned scalar) is an argument with a default.
Axes: `_N` the responses of a train batch, `_P` its groups. Groups are numbered from 0.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .within import mean_within

Rule = Callable[..., Tensor]
RULES: dict[str, Rule] = {}
# The one rule that also depends on how verl splits a batch.
MICRO = "token_micro"


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register an aggregation rule under the name used in configs and tables.

    Raises:
        ValueError: the name is taken.
    """

    def add(weights: Rule) -> Rule:
        if name in RULES:
            raise ValueError(f"aggregation rule {name!r} is already {RULES[name].__name__}")
        RULES[name] = weights
        return weights

    return add


@rule("sequence")
def sequence_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights of GRPO (arXiv:2402.03300): the reference is the response's own length."""
    return 1.0 / length_N.double()


@rule("token")
def token_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights of token aggregation per group (DAPO, arXiv:2503.14476, equation 8).

    A group of G responses gives the mean over its tokens, sum_it loss_it / sum_i length_i, so the
    reference is the mean length of the group.
    """
    return 1.0 / mean_within(length_N, group_N)


@rule("token_batch")
def token_batch_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights of the token mean over the train batch, as verl and TRL name it."""
    return torch.full_like(length_N, 1.0, dtype=torch.double) / length_N.double().mean()


@rule("constant")
def constant_weights(
    length_N: Tensor, advantage_N: Tensor, group_N: Tensor, limit: float = 1.0
) -> Tensor:
    """Return the weights of Dr. GRPO (arXiv:2503.20783): the reference is a constant, the limit.

    Without `limit` it is the plain sum over tokens; the limit only scales all weights alike.
    """
    return torch.full_like(length_N, 1.0 / limit, dtype=torch.double)


@rule("balanced")
def balanced_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights of Balanced Aggregation (arXiv:2605.04077).

    In a group of G responses the tokens of each advantage sign are averaged apart, and the means
    are mixed by how many responses they hold:

        L_g = sum_{s in -, 0, +} (n_s / G) * (1 / T_s) * sum_{i in s} sum_t loss_it

    so the reference is the mean length T_s / n_s of the responses with i's sign. Advantages of
    exactly 0 are a class of their own: no policy gradient, but they count in G.
    """
    sign_N = advantage_N.sign().long() + 1
    return 1.0 / mean_within(length_N, 3 * group_N + sign_N)


@rule("balanced_batch")
def balanced_batch_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights of Balanced Aggregation over the train batch, a rule of this project.

    The reference is the mean length of the train batch's responses with i's advantage sign. So all
    tokens of a sign weigh the same in the whole batch, and each sign gets the share of its count.
    """
    return 1.0 / mean_within(length_N, advantage_N.sign().long() + 1)


@rule("balanced_batch_weighted")
def balanced_batch_weighted_weights(
    length_N: Tensor, advantage_N: Tensor, group_N: Tensor
) -> Tensor:
    """Return the weights of `balanced_batch` with lengths averaged by advantage, also ours.

    The reference of a sign is sum |A| L / sum |A| over the train batch. Then sum_i w_i A_i L_i is 0
    whenever the advantages of the batch add up to 0, for any rewards.
    """
    size_N = advantage_N.double().abs().where(advantage_N != 0, 1.0)
    sign_N = advantage_N.sign().long() + 1
    return mean_within(size_N, sign_N) / mean_within(size_N * length_N, sign_N)


@rule("balanced_square")
def balanced_square_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Return the weights that fit gradients whose variance grows as the squared length, also ours.

    The reference of a sign is its mean squared length over the train batch, divided by the mean
    length of all. docs/theory.md derives it: the best weight of a sign is one over the variance of
    its gradients, and `balanced_batch` is the case where that grows as the length.
    """
    length_N = length_N.double()
    return length_N.mean() / mean_within(length_N**2, advantage_N.sign().long() + 1)


@rule("vl_norm")
def vl_norm_weights(
    length_N: Tensor,
    advantage_N: Tensor,
    group_N: Tensor,
    limit: float = 1.0,
    alpha: float = 0.75,
) -> Tensor:
    """Return the weights of VL Norm (Delta-L Normalization, arXiv:2509.07558).

    w_i = N L_i^-alpha / sum_j L_j^-alpha / limit, over the N responses of the train batch as in the
    released code. So alpha 0 is `constant`. The paper trains with 0.75 and 1.
    """
    power_N = length_N.double() ** -alpha
    return power_N / power_N.mean() / limit


@rule("lambda")
def lambda_weights(
    length_N: Tensor,
    advantage_N: Tensor,
    group_N: Tensor,
    exponent: float | Tensor = 0.0,
    spread: float = 1 / 9,
) -> Tensor:
    """Return the weights of lambda-GRPO (arXiv:2510.06870), which learns a preference in length.

    With z the standardised length within the group (standard deviation over G, not G - 1),

        h_i = 1 + spread * z_i        f_i = G * softmax_over_group(h_i ** exponent)
        w_i = f_i / mean length of the group

    so exponent 0 is `token`, below 0 favours short and above 0 long responses. The paper does not
    say what happens at h <= 0; no group of G responses gets there while
    spread * sqrt(G - 1) < 1, because |z| <= sqrt(G - 1) (Samuelson's inequality).

    Args:
        length_N: trained tokens of each response, > 0.
        advantage_N: unused.
        group_N: number of the response's group.
        exponent: the learned scalar; a 0-dimensional tensor to differentiate by it.
        spread: how far the lengths move h from 1, `r` in the paper.

    Raises:
        ValueError: an h is not positive, so its power is undefined.
    """
    mean_N = mean_within(length_N, group_N)
    deviation_N = length_N - mean_N
    std_N = mean_within(deviation_N**2, group_N).sqrt()
    h_N = 1 + spread * deviation_N / std_N.where(std_N > 0, 1.0)
    if (h_N <= 0).any():
        raise ValueError(
            f"lambda-GRPO is undefined where 1 + spread * z <= 0, found {h_N.amin():.3g} with "
            f"spread={spread:.3g}; use a spread below 1 / sqrt(rows per group - 1)"
        )
    power_N = h_N**exponent
    # The same for all of a group, so the softmax does not change; its exponential stays finite.
    zero_P = torch.zeros_like(torch.bincount(group_N), dtype=torch.double)
    highest_P = zero_P.scatter_reduce(0, group_N, power_N.detach(), "amax")
    score_N = (power_N - highest_P[group_N]).exp()
    return score_N / mean_within(score_N, group_N) / mean_N


@rule(MICRO)
def token_micro_weights(
    length_N: Tensor, advantage_N: Tensor, group_N: Tensor, micro_N: Tensor | None = None
) -> Tensor:
    """Return the weights of the mean of micro-batches' token means, verl's `token-mean` for long.

    verl once averaged over the tokens of a micro-batch, and weighted micro-batches by their
    responses (issue 1644; SkyRL keeps it as `token_mean_legacy`, pull request 1637). So the
    reference is the mean length of the micro-batch, and changes with the token budget. One
    micro-batch that holds everything gives `token_batch`.

    Args:
        length_N: trained tokens of each response, > 0.
        advantage_N: unused.
        group_N: unused.
        micro_N: number of the response's micro-batch; None for one that holds everything.
    """
    return 1.0 / mean_within(length_N, torch.zeros_like(group_N) if micro_N is None else micro_N)


def with_limit(limit: float) -> dict[str, Rule]:
    """Return every rule, those that divide by a constant length with this one, in tokens."""
    return RULES | {name: partial(RULES[name], limit=limit) for name in ("constant", "vl_norm")}


def with_positive_factor(rules: Mapping[str, Rule], factor: float) -> dict[str, Rule]:
    """Return the rules with the weights of positive advantages multiplied by a factor.

    W-REINFORCE (arXiv:2506.01347) is a factor of 0.1, and TOPR (arXiv:2503.14286) has one for each
    sign; only their ratio matters to an optimizer that does not see the scale of gradients.
    """

    def scaled(rule: Rule) -> Rule:
        def weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor, **given: Any) -> Tensor:
            weight_N = rule(length_N, advantage_N, group_N, **given)
            return weight_N * torch.where(advantage_N > 0, factor, 1.0)

        return weights

    return {name: scaled(rule) for name, rule in rules.items()}


def value_and_slope(weights: Rule, exponent: float, *columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of a rule with a learned scalar, and their derivative by that scalar.

    Returns:
        weight_N, slope_N.
    """
    at = torch.tensor(exponent, dtype=torch.double)
    weight_N, slope_N, *_ = torch.func.jvp(
        lambda x: weights(*columns, exponent=x), (at,), (torch.ones_like(at),)
    )
    return weight_N, slope_N


def over_all_rows(weight_C: Tensor, counted_N: Tensor) -> Tensor:
    """Return the weights of all rows of a train batch of which only some responses count.

    Padding, aborted and dropped rows get weight 0. The others are multiplied by N / num_counted,
    so dividing by all N rows in the loss is a mean over the counted ones.

    Args:
        weight_C: a rule's weights, made from the counted responses alone.
        counted_N: bool, whether the response is part of the objective.
    """
    weight_N = torch.zeros(len(counted_N), dtype=torch.double)
    if len(weight_C):
        weight_N[counted_N] = weight_C * (len(counted_N) / len(weight_C))
    return weight_N
