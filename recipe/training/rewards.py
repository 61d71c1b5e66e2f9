"""Read the graders' verdicts of a batch on the driver."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from reward.errors import RewardError
from reward.score import COUNTED

# Means over the responses of a batch, as `reward/NAME`.
REPORTED = (*COUNTED, "seconds")


def refuse_broken(score_N: Tensor, info_N: Iterable[dict[str, Any]]) -> None:
    """Refuse a batch in which a score is not a number, before anything is learned from it.

    Raises:
        RewardError: with what the first such row says (`reward.score.compute_score`).
    """
    broken = ~score_N.isfinite()
    if broken.any():
        said = next(info.get("error") for info, bad in zip(info_N, broken, strict=True) if bad)
        raise RewardError(
            f"{int(broken.sum())} of {len(broken)} responses have no reward. The first: {said}"
        )


def reward_metrics(is_N: Tensor, info_N: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return means of the graders' columns over the rows where `is_N`; none for other rewards."""
    rows = [info for info, is_there in zip(info_N, is_N.tolist(), strict=True) if is_there]
    return {
        f"reward/{name}": sum(float(row[name]) for row in rows) / len(rows)
        for name in REPORTED
        if rows and all(name in row for row in rows)
    }


def correct(score_N: Tensor, info_N: Iterable[dict[str, Any]]) -> Tensor:
    """Return which responses are correct, (N,) bool: by the graders' `acc`, else by score > 0.

    The two differ where a punishment for length is in the score.
    """
    given = [info.get("acc") for info in info_N]
    return torch.tensor(
        [s > 0 if a is None else a > 0 for a, s in zip(given, score_N.tolist(), strict=True)]
    )
