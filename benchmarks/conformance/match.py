"""Say which rule the weights of a framework's tokens are, or what they depend on."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.conformance.fixtures import BATCHES, LIMIT, SPLITS, N
from recipe.maths.rules import MICRO, RULES, Rule, with_limit

# What distinguishes two splits: the cause, the split that has it, and the split that has it not.
CAUSES = (
    ("padding", "padded", "one"),
    ("the micro-batch", "micro", "one"),
    ("the micro-batch", "packed", "one"),
    ("the micro-batch", "ranks_micro", "ranks"),
    ("the micro-batch", "ranks_packed", "ranks"),
    ("ranks", "ranks", "one"),
)
PACKED = {split.name: split.packed for split in SPLITS}
# `lambda` learns its exponent. At 0 it would be `token`.
EXPONENT = 1.0
# Frameworks compute masks and advantages in float32, and add 1e-8 to some denominators.
TOLERANCE = 1e-5


class Run(NamedTuple):
    """Hold the weights of one batch under one split."""

    batch: str
    split: str
    weights: Sequence[float]
    micro: Sequence[int]
    """The number of each response's micro-batch, over all ranks."""


class Verdict(NamedTuple):
    """Say what a setting is."""

    rule: str | None
    """The rule that fits every batch and split, with one factor."""
    factor: float | None
    """The gradient is this many times that of the rule, whose lengths are divided by the limit."""
    depends: Mapping[str, float]
    """The largest relative change of a token's weight by each cause that changes a weight."""
    alone: str | None
    """The rule on one rank with one micro-batch, without needless padding."""
    unpacked: str | None
    """The rule where no micro-batch is packed by a budget of tokens."""


def runs_of(setting: Mapping[str, Any]) -> list[Run]:
    """Return the runs of one setting of a result file."""
    return [Run(**run) for run in setting["runs"]]


def bound_rules() -> dict[str, Rule]:
    """Return every rule with the settings that the fixtures are compared with."""
    rules = with_limit(LIMIT)
    rules["lambda"] = partial(RULES["lambda"], exponent=EXPONENT)
    return rules


def expected(name: str, run: Run) -> Tensor:
    """Return the weight of each response's tokens under one of our rules, as a loss has it."""
    batch = next(batch for batch in BATCHES if batch.name == run.batch)
    columns = (
        torch.tensor(batch.lengths),
        torch.tensor(batch.advantages, dtype=torch.double),
        torch.tensor(batch.groups()),
    )
    more = {"micro_N": torch.tensor(run.micro)} if name == MICRO else {}
    return bound_rules()[name](*columns, **more) / N


def factor_of(name: str, runs: Iterable[Run]) -> float | None:
    """Return the one number that relates all weights to those of a rule; None if there is none."""
    ratios = torch.cat(
        [torch.tensor(run.weights, dtype=torch.double) / expected(name, run) for run in runs]
    )
    middle = ratios.mean()
    same = (ratios - middle).abs().max() <= TOLERANCE * middle.abs()
    return middle.item() if same and middle != 0 else None


def fitting(runs: Sequence[Run]) -> list[str]:
    """Return the rules whose weights these are, up to one factor."""
    return [name for name in RULES if factor_of(name, runs) is not None]


def dependence(runs: Iterable[Run]) -> dict[str, float]:
    """Return by how much each cause changes a token's weight at most, where it does."""
    found = {(run.batch, run.split): torch.tensor(run.weights, dtype=torch.double) for run in runs}
    changes: dict[str, float] = {}
    for cause, other, base in CAUSES:
        for batch in BATCHES:
            if (batch.name, other) in found and (batch.name, base) in found:
                change = found[batch.name, other] / found[batch.name, base] - 1
                changes[cause] = max(changes.get(cause, 0.0), change.abs().max().item())
    return {cause: change for cause, change in changes.items() if change > TOLERANCE}


def judge(runs: Sequence[Run]) -> Verdict:
    """Return what a setting is.

    Raises:
        ValueError: two rules fit, so the fixtures do not separate them; or a split is unknown.
    """
    unknown = {run.split for run in runs} - {split.name for split in SPLITS}
    if unknown:
        raise ValueError(f"the splits {sorted(unknown)} are not in fixtures.SPLITS; measure again")
    names = fitting(runs)
    if len(names) > 1:
        raise ValueError(f"the fixtures do not separate the rules {names}")
    alone = fitting([run for run in runs if run.split == "one"])
    # One micro-batch that holds everything makes `token_micro` equal to `token_batch`.
    alone = [name for name in alone if name != MICRO]
    unpacked = fitting([run for run in runs if not PACKED[run.split]])
    return Verdict(
        rule=names[0] if names else None,
        factor=factor_of(names[0], runs) if names else None,
        depends=dependence(runs),
        alone=alone[0] if alone else None,
        unpacked=unpacked[0] if len(unpacked) == 1 else None,
    )
