"""Aggregation rules: how the token losses of a batch become one number.

Every rule is one weight per response; the loss of a batch of N responses is

    L = (1/N) * sum_i w_i * sum_t mask_it * loss_it          w_i = 1 / (reference length of i)

and the rules differ in the reference length alone. Axis `_N`: the responses of a train batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[..., Tensor]
RULES: dict[str, Rule] = {}


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
    """GRPO (arXiv:2402.03300): the reference is the response's own length, w_i = 1 / length_i."""
    return 1.0 / length_N.double()


@rule("token")
def token_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Token aggregation per group (DAPO, arXiv:2503.14476, equation 8).

    A group of G responses gives the mean over its tokens, sum_it loss_it / sum_i length_i, so the
    reference is the mean length of the group.
    """
    return 1.0 / mean_within(length_N, group_N)


@rule("token_batch")
def token_batch_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Token mean over the whole train batch, what verl and TRL call token mean."""
    return torch.full_like(length_N, 1.0, dtype=torch.double) / length_N.double().mean()


@rule("constant")
def constant_weights(
    length_N: Tensor, advantage_N: Tensor, group_N: Tensor, limit: float = 1.0
) -> Tensor:
    """Dr. GRPO (arXiv:2503.20783): the reference is a constant, usually the length limit.

    Without `limit` it is the plain sum over tokens; the limit only scales all weights alike.
    """
    return torch.full_like(length_N, 1.0 / limit, dtype=torch.double)


@rule("balanced")
def balanced_weights(length_N: Tensor, advantage_N: Tensor, group_N: Tensor) -> Tensor:
    """Balanced Aggregation (arXiv:2605.04077).

    In a group of G responses the tokens of each advantage sign are averaged apart, and the means
    are mixed by how many responses they hold:

        L_g = sum_{s in -, 0, +} (n_s / G) * (1 / T_s) * sum_{i in s} sum_t loss_it

    so the reference is the mean length T_s / n_s of the responses with i's sign. Advantages of
    exactly 0 are a class of their own: no policy gradient, but they count in G.
    """
    sign_N = advantage_N.sign().long() + 1
    return 1.0 / mean_within(length_N, 3 * group_N + sign_N)


def mean_within(value_N: Tensor, bucket_N: Tensor) -> Tensor:
    """Mean of `value_N` over the responses with the same bucket id, given back per response."""
    _, index_N = bucket_N.unique(return_inverse=True)
    total = torch.bincount(index_N, weights=value_N.double())
    return (total / torch.bincount(index_N))[index_N]


def response_weights(
    weights: Rule, length_N: Tensor, advantage_N: Tensor, group_N: Tensor, counted_N: Tensor
) -> Tensor:
    """Weights of a train batch of which only some responses count.

    Padding, aborted and dropped rows get weight 0 and enter no group. The others are multiplied
    by N / num_counted, so dividing by all N rows in the loss is a mean over the counted ones.

    Args:
        weights: a rule of `RULES`, or one with its limit bound.
        length_N: trained tokens of each response; > 0 where counted.
        advantage_N: one group-relative advantage per response.
        group_N: integer id of the response's prompt.
        counted_N: bool, whether the response is part of the objective.
    """
    weight_N = torch.zeros(len(length_N), dtype=torch.double)
    if counted_N.any():
        part = [column[counted_N] for column in (length_N, advantage_N, group_N)]
        weight_N[counted_N] = weights(*part) * (len(length_N) / int(counted_N.sum()))
    return weight_N
