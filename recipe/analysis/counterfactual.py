"""Compute what each aggregation rule would have done with a run's responses, with intervals.

Everything here is a function of sums over responses, and the responses of a group hang together:
so a step or a run is a table of sums, one row a group, and its intervals come from drawing groups
anew. Axes: `_N` responses, `_P` groups, `_K` sums, `_B` bootstrap replicates.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipe.analysis.bootstrap import Estimate, interval, resample
from recipe.analysis.drift import SIGNS, Drift, drift
from recipe.maths.diagnostics import group_lengths, per_group
from recipe.maths.rules import Rule


def group_sums(
    length_N: Tensor,
    advantage_N: Tensor,
    group_N: Tensor,
    rules: Mapping[str, Rule],
    trained: str,
) -> dict[str, Tensor]:
    """Return sums over the responses of each group of one train batch.

    A response's share under a rule is w_i * length_i * |A_i|, normalised over the batch; without
    any advantage it is 0. The keys are what `statistics` reads.

    Args:
        length_N: tokens of each response, > 0.
        advantage_N: one group-relative advantage per response.
        group_N: number of its group, 0 to P - 1, each of which occurs.
        rules: by name; `sequence`, `token` and `balanced` among them.
        trained: name of the rule that the others are compared with.
    """
    share = {}
    for name, rule in rules.items():
        share_N = rule(length_N, advantage_N, group_N) * length_N * advantage_N.abs()
        share[name] = share_N / share_N.sum().clamp(min=torch.finfo(torch.double).tiny)
    sums = {}
    for name, share_N in share.items():
        sums[f"positive/{name}"] = per_group(share_N * (advantage_N > 0), group_N)
        sums[f"negative/{name}"] = per_group(share_N * (advantage_N < 0), group_N)
        sums[f"squares/{name}"] = per_group(share_N**2, group_N)
        # The responses that this rule would have given more than the trained one.
        gains_N = share_N > share[trained]
        sums[f"gained/{name}"] = per_group(share_N * gains_N, group_N)
        sums[f"gained_from/{name}"] = per_group(share[trained] * gains_N, group_N)
    lengths = group_lengths(length_N, advantage_N, group_N)
    # Within a group the mean gradients of both signs are opposite: 1 - p and -p times the same.
    positive_P = per_group(advantage_N > 0, group_N) / torch.bincount(group_N)
    expected_N = torch.where(advantage_N > 0, 1 - positive_P[group_N], positive_P[group_N])
    for name, rule in rules.items():
        factor_N = rule(length_N, advantage_N, group_N) * advantage_N.abs()
        sums[f"signal/{name}"] = per_group(factor_N * expected_N, group_N)
        sums[f"noise/{name}"] = per_group(factor_N**2 * length_N, group_N)

    # `sequence` with the share that `balanced` gives to each sign of each group.
    side_N = 2 * group_N + (advantage_N > 0)
    balanced, sequence = (per_group(share[name], side_N) for name in ("balanced", "sequence"))
    scale = (balanced / sequence).nan_to_num(0.0)
    departure_N = share["balanced"] - share["sequence"] * scale[side_N]
    sums["moved_within_sign"] = per_group(departure_N.abs() / 2, group_N)

    for name, is_N in signs(advantage_N).items():
        sums[f"count/{name}"] = per_group(is_N, group_N)
        sums[f"tokens/{name}"] = per_group(length_N * is_N, group_N)
    sums["responses"] = torch.bincount(group_N).double()
    sums["groups"] = lengths.exists_P.double()
    sums["mixed"] = lengths.mixed_P.double()
    sums["gap"] = lengths.gap_P.where(lengths.mixed_P, 0.0)
    sums["variation"] = lengths.variation_P
    return sums


def signs(advantage_N: Tensor) -> dict[str, Tensor]:
    """Return which responses have an advantage of each sign."""
    sides = (advantage_N > 0, advantage_N < 0, advantage_N == 0)
    return dict(zip(SIGNS, sides, strict=True))


def statistics(
    sums: Mapping[str, np.ndarray], names: Sequence[str], trained: str
) -> dict[str, np.ndarray]:
    """Return statistics of a step or a run from sums over groups, of any shape; NaN if undefined.

    Returns:
        share_negative/RULE: of the objective, for negative responses.
        excess/RULE: share_negative of the trained rule minus that of RULE.
        coupling/RULE: log(share_positive / share_negative), minus the same under `sequence`.
        effective/RULE: 1 / sum of squared shares, as a part of all responses.
        moved/RULE: part of the objective RULE gives to other responses than the trained rule, half
            the sum of |difference of shares|.
        signal_over_noise/RULE: of the batch gradient, over that of the trained rule, if every token
            has the same independent noise (docs/theory.md, sections 3 and 4).
        mean_length/SIGN: tokens of a response with an advantage of this sign.
        length_gap, length_variation: means over groups, as in `recipe.maths.diagnostics`.
        moved_by_gap: share_negative/token - share_negative/balanced.
        moved_by_variation: part of the objective that `sequence` gives to other responses of the
            same group and sign than `balanced`.
        gap_over_variation: |moved_by_gap| - moved_by_variation.
    """
    found = {}
    total = {name: sums[f"positive/{name}"] + sums[f"negative/{name}"] for name in names}
    with np.errstate(divide="ignore", invalid="ignore"):
        negative = {name: sums[f"negative/{name}"] / total[name] for name in names}
        log_odds = {
            name: np.log(sums[f"positive/{name}"]) - np.log(sums[f"negative/{name}"])
            for name in names
        }
        for name in names:
            found[f"objective_share_negative/{name}"] = negative[name]
            found[f"excess/{name}"] = negative[trained] - negative[name]
            found[f"sign_length_coupling/{name}"] = log_odds[name] - log_odds["sequence"]
            squares = sums[f"squares/{name}"]
            found[f"effective/{name}"] = total[name] ** 2 / squares / sums["responses"]
            found[f"moved/{name}"] = (
                sums[f"gained/{name}"] / total[name] - sums[f"gained_from/{name}"] / total[trained]
            )
        snr = {name: sums[f"signal/{name}"] ** 2 / sums[f"noise/{name}"] for name in names}
        found |= {f"signal_over_noise/{name}": snr[name] / snr[trained] for name in names}
        for sign in SIGNS:
            found[f"mean_length/{sign}"] = sums[f"tokens/{sign}"] / sums[f"count/{sign}"]
        found["length_gap"] = sums["gap"] / sums["mixed"]
        found["length_variation"] = sums["variation"] / sums["groups"]
        found["moved_by_gap"] = negative["token"] - negative["balanced"]
        found["moved_by_variation"] = sums["moved_within_sign"] / total["balanced"]
    found["gap_over_variation"] = abs(found["moved_by_gap"]) - found["moved_by_variation"]
    return found


def estimate(
    sums: Mapping[str, np.ndarray], names: Sequence[str], trained: str, random: np.random.Generator
) -> dict[str, Estimate]:
    """Return the statistics of a table of groups, each with its percentile bootstrap interval.

    All rules are computed from the same resamples, so differences between them are paired. Shares
    stay normalised by the batch that was, as does what `moved` takes for gained. One group alone
    has no interval.

    Args:
        sums: value_P by name, from `group_sums`.
        names: of the rules.
        trained: the rule that the others are compared with.
        random: what draws the groups.
    """
    table_PK = np.stack(list(sums.values()), axis=-1)

    def of(total_K: np.ndarray) -> dict[str, np.ndarray]:
        return statistics(dict(zip(sums, np.moveaxis(total_K, -1, 0), strict=True)), names, trained)

    value = of(table_PK.sum(0))
    if len(table_PK) == 1:
        return {name: Estimate(float(x), np.nan, np.nan) for name, x in value.items()}
    drawn = of(resample(table_PK, random))
    return {name: Estimate(float(x), *interval(drawn[name])) for name, x in value.items()}


class Analysis(NamedTuple):
    """Hold the statistics of a run and of each of its steps."""

    run: dict[str, Estimate]
    deviation: dict[str, float]
    """Standard deviation of the steps' values, noise of the steps included."""
    steps: dict[int, dict[str, Estimate]]
    trained: str
    rules: list[str]
    num_responses: int
    num_groups: int
    num_mixed: int
    """Groups with advantages of both signs."""
    drift: Drift | None = None
    """Say how lengths changed; None if there is one step."""


def analyse(
    step_N: np.ndarray,
    group_N: np.ndarray,
    length_N: np.ndarray,
    advantage_N: np.ndarray,
    rules: Mapping[str, Rule],
    trained: str,
    seed: int = 0,
) -> Analysis:
    """Analyse every step and the run: shares are means over steps, lengths means over groups.

    A step's intervals come from its own groups, the run's from all groups of all steps.

    Args:
        step_N: the train batch of each response.
        group_N: number of its group; no group is in two steps.
        length_N: its tokens; those of length 0 are in no objective.
        advantage_N: its advantage.
        rules: by name.
        trained: the rule that the others are compared with.
        seed: of the bootstrap.
    """
    there = np.flatnonzero(length_N > 0)
    there = there[np.argsort(step_N[there], kind="stable")]
    values, begin = np.unique(step_N[there], return_index=True)
    random = np.random.default_rng(seed)
    names = list(rules)
    tables: dict[int, dict[str, np.ndarray]] = {}
    steps: dict[int, dict[str, Estimate]] = {}
    for step, row in zip(values.tolist(), np.split(there, begin[1:]), strict=True):
        local_N = np.unique(group_N[row], return_inverse=True)[1]
        length, advantage, group = map(torch.from_numpy, (length_N[row], advantage_N[row], local_N))
        sums = group_sums(length, advantage, group, rules, trained)
        tables[step] = {key: value_P.numpy() for key, value_P in sums.items()}
        steps[step] = estimate(tables[step], names, trained, random)
    whole = {
        key: np.concatenate([sums[key] for sums in tables.values()]) for key in tables[values[0]]
    }
    found = {key: np.array([at[key].value for at in steps.values()]) for key in steps[values[0]]}
    defined = {key: x[np.isfinite(x)] for key, x in found.items()}
    return Analysis(
        run=estimate(whole, names, trained, random),
        deviation={key: float(x.std()) if len(x) else np.nan for key, x in defined.items()},
        steps=steps,
        trained=trained,
        rules=names,
        num_responses=len(there),
        num_groups=len(whole["groups"]),
        num_mixed=int(whole["mixed"].sum()),
        drift=drift(tables, random),
    )
