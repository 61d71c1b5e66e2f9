"""Read the results of a study, as `recipe.study` writes them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.base.errors import UserError
from recipe.base.files import read_lines

Row = dict[str, Any]


def read_results(path: Path) -> list[Row]:
    """Return the finished runs of a study.

    Args:
        path: its results.jsonl, or the folder that holds it.

    Raises:
        UserError: there is none, or it is empty.
    """
    path = path / "results.jsonl" if path.is_dir() else path
    rows = read_lines(path) if path.is_file() else []
    if not rows:
        raise UserError(f"{path} has no result of a study; recipe.study writes them.")
    return rows


def compared(rows: Sequence[Row], cell: str) -> dict[str, dict[int, Row]]:
    """Return the runs of a cell that compare its arms, by arm and seed.

    Runs that only chose a learning rate are left out: their seeds have several rates of an arm.
    """
    by_seed: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row["cell"] == cell:
            by_seed[row["arm"], row["seed"]].append(row)
    found: dict[str, dict[int, Row]] = defaultdict(dict)
    for (arm, seed), same in by_seed.items():
        if not same[0]["is_selection"]:
            [found[arm][seed]] = same
    return dict(found)


def by_problem(rows: Sequence[Row], cell: str) -> dict[str, dict[int, np.ndarray]]:
    """Return the accuracy on each held-out problem at the end, by arm and seed."""
    return {
        arm: {seed: accuracies(row)[-1] for seed, row in runs.items()}
        for arm, runs in compared(rows, cell).items()
    }


def accuracies(row: Row) -> np.ndarray:
    """Return the accuracy at each look on each held-out problem, looks x problems."""
    right = np.array([[int(digit) for digit in digits] for digits in row["held_out"]])
    return right / row["held_out_samples"]
