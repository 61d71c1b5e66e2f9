"""Weigh, measure and compare the responses of a batch: what other trainers need of this room.

Axes: `_N` the responses of one optimizer step, whole groups. Their loss is

    L = (1/N) * sum_i w_i * sum_t mask_it * loss_it

with `w = weights(...)`. Whoever splits the batch computes the weights before the split.
"""

import inspect
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .columns import group_numbers
from .diagnostics import diagnose, group_lengths, under_rule
from .rules import MICRO, RULES, Rule, over_all_rows

Numbers = Tensor | Sequence[float]
# What a rule is told of every response. Its other arguments are settings.
FACTS = ("length_N", "advantage_N", "group_N")
# Rules that mean nothing new without settings of their own.
NEED_SETTINGS = {"lambda", MICRO}


class Shares(NamedTuple):
    """Say how a rule divides the objective."""

    positive: float
    """Share of the responses with a positive advantage; NaN if no response has an advantage."""
    negative: float
    """Share of those with a negative one."""
    effective_responses: float
    """Responses that would share alike: 1 / sum of squared shares."""


def weights(
    rule: str,
    lengths: Numbers,
    advantages: Numbers,
    groups: Tensor | Sequence[Hashable],
    **settings: Any,
) -> Tensor:
    """Return the weight of each response under a rule, (N,) float64.

    Args:
        rule: a name in `RULES`.
        lengths: trained tokens of each response, (N,). A response of 0 tokens gets weight 0 and
            does not count: the weights of the others grow by N over their number.
        advantages: one number per response, (N,).
        groups: what tells the prompts apart, (N,): numbers or strings.
        settings: of the rule, such as `limit` of `constant` and `alpha` of `vl_norm`.

    Raises:
        ValueError: the rule or a setting is unknown, a column has another length, or a number is
            negative or not finite.

    >>> weights("balanced", [2, 4, 6], [1.0, -0.5, -0.5], ["a", "a", "a"]).tolist()
    [0.5, 0.2, 0.2]
    """
    weigh = _bound(rule, settings)
    length_N, advantage_N, group_N = _facts(lengths, advantages, groups)
    counted_N = length_N > 0
    if not counted_N.any():
        return torch.zeros(len(length_N), dtype=torch.double)
    counted = (fact_N[counted_N] for fact_N in (length_N, advantage_N, group_N))
    return over_all_rows(weigh(*counted), counted_N)


def shares(
    lengths: Numbers, advantages: Numbers, groups: Tensor | Sequence[Hashable]
) -> dict[str, Shares]:
    """Return how each rule would divide the objective of this batch.

    A response's share is w_i * length_i * |A_i|, over the sum of the batch. Rules without settings
    of their own are compared: at its start `lambda` is `token`, and `token_micro` of one
    micro-batch is `token_batch`.

    Args:
        lengths: as in `weights`.
        advantages: as in `weights`.
        groups: as in `weights`.

    >>> found = shares([2, 4, 6], [1.0, -0.5, -0.5], ["a", "a", "a"])
    >>> round(found["token"].positive, 3), round(found["balanced"].positive, 3)
    (0.286, 0.5)
    """
    counted = length_N, advantage_N, _ = _counted(lengths, advantages, groups)
    found = {}
    for rule in (name for name in RULES if name not in NEED_SETTINGS):
        under = under_rule(length_N, advantage_N, RULES[rule](*counted)) if len(length_N) else {}
        found[rule] = Shares(
            under.get("objective_share_positive", torch.nan),
            under.get("objective_share_negative", torch.nan),
            under.get("effective_num_responses", torch.nan),
        )
    return found


def metrics(
    rule: str,
    lengths: Numbers,
    advantages: Numbers,
    groups: Tensor | Sequence[Hashable],
    **settings: Any,
) -> dict[str, float]:
    """Return the diagnostics of a batch, to be logged at every step; none of an empty batch.

    Args:
        rule: the rule that trains, as in `weights`.
        lengths: as in `weights`.
        advantages: as in `weights`.
        groups: as in `weights`.
        settings: of the rule that trains. The others are measured without any.

    >>> metrics("token", [2, 4, 6], [1.0, -0.5, -0.5], [7, 7, 7])["aggregation/length_gap"]
    0.75
    """
    rules = {n: weigh for n, weigh in RULES.items() if n not in NEED_SETTINGS} | {
        rule: _bound(rule, settings)
    }
    counted = _counted(lengths, advantages, groups)
    if not len(counted[0]):
        return {}
    return diagnose(*counted, {name: weigh(*counted) for name, weigh in rules.items()}, rule)


def report(lengths: Numbers, advantages: Numbers, groups: Tensor | Sequence[Hashable]) -> str:
    """Return the shares under every rule as text, below the lengths that they come from.

    Args:
        lengths: as in `weights`.
        advantages: as in `weights`.
        groups: as in `weights`.

    >>> print(report([2, 4, 6], [1.0, -0.5, -0.5], ["a", "a", "a"]))  # doctest: +ELLIPSIS
    3 responses in 1 group: 1 with a positive advantage, 2 with a negative one.
    Mean length 2.0 of the positive and 5.0 of the negative ones; length gap +0.75, variation 0.41.
    <BLANKLINE>
    rule                     positive  negative  effective responses
    sequence                    50.0%     50.0%                  2.7
    ...
    """
    length_N, advantage_N, group_N = _counted(lengths, advantages, groups)
    signs = {"positive": advantage_N > 0, "negative": advantage_N < 0}
    count = {name: int(is_N.sum()) for name, is_N in signs.items()}
    mean = {name: length_N[is_N].double().mean().item() for name, is_N in signs.items()}
    within = group_lengths(length_N, advantage_N, group_N)
    gap, variation = (
        value_P[~value_P.isnan()].mean().item() for value_P in (within.gap_P, within.variation_P)
    )
    num_groups = int(within.exists_P.sum())
    lines = [
        f"{len(length_N)} responses in {num_groups} group{'s' * (num_groups != 1)}: "
        f"{count['positive']} with a positive advantage, {count['negative']} with a negative one.",
        f"Mean length {mean['positive']:.1f} of the positive and {mean['negative']:.1f} of the "
        f"negative ones; length gap {gap:+.2f}, variation {variation:.2f}.",
        "",
        f"{'rule':<24} {'positive':>8}  {'negative':>8}  effective responses",
    ]
    for rule, share in shares(lengths, advantages, groups).items():
        lines.append(
            f"{rule:<24} {share.positive:>8.1%}  {share.negative:>8.1%}  "
            f"{share.effective_responses:>19.1f}"
        )
    return "\n".join(lines)


def _bound(rule: str, settings: dict[str, Any]) -> Rule:
    """Return a rule with its settings.

    Raises:
        ValueError: the rule does not exist, or has no such setting.
    """
    if rule not in RULES:
        raise ValueError(f"the rule is {rule!r}; known rules are {', '.join(sorted(RULES))}")
    known = [name for name in inspect.signature(RULES[rule]).parameters if name not in FACTS]
    if unknown := sorted(settings.keys() - known):
        raise ValueError(
            f"the rule {rule!r} has no setting {', '.join(unknown)}; it has "
            f"{', '.join(known) or 'none'}"
        )
    return partial(RULES[rule], **settings)


def _counted(
    lengths: Numbers, advantages: Numbers, groups: Tensor | Sequence[Hashable]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns of the responses that have tokens."""
    length_N, advantage_N, group_N = _facts(lengths, advantages, groups)
    counted_N = length_N > 0
    return length_N[counted_N], advantage_N[counted_N], group_N[counted_N]


def _facts(
    lengths: Numbers, advantages: Numbers, groups: Tensor | Sequence[Hashable]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns as tensors on the CPU, groups numbered from 0.

    Raises:
        ValueError: they do not fit together, or hold what no response can have.
    """
    length_N, advantage_N = (
        torch.as_tensor(column, dtype=torch.double).detach().cpu()
        for column in (lengths, advantages)
    )
    names = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    sizes = {"lengths": length_N.shape, "advantages": advantage_N.shape, "groups": (len(names),)}
    if len({tuple(size) for size in sizes.values()}) > 1 or length_N.ndim != 1 or not names:
        found = ", ".join(f"{name} has shape {tuple(size)}" for name, size in sizes.items())
        raise ValueError(
            f"{found}, but each needs one number per response. If advantages are given per token, "
            f"take the first trained token's"
        )
    if not (length_N.isfinite() & (length_N >= 0)).all() or not advantage_N.isfinite().all():
        raise ValueError(
            f"lengths must be finite and at least 0, and advantages finite; found "
            f"lengths from {length_N.min():g} to {length_N.max():g} and advantages from "
            f"{advantage_N.min():g} to {advantage_N.max():g}"
        )
    return length_N, advantage_N, group_numbers(names)
