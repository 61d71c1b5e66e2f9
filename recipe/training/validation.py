"""Validation in training: the tasks of the final evaluation, scored by the same function.

verl draws its best@k and maj@k with replacement and votes by spelling. Here `recipe.tasks.scores`
scores what this project's reward graded, under verl's name where the meaning is verl's.
"""

from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from recipe.tasks.scores import Graded, scores
from recipe.tasks.task import samples_by_source
from reward.grader import Grader
from reward.score import COUNTED
from reward.sources import RewardSettings, Source

Columns = Mapping[str, list[Any]]


class TaskLoader:
    """Add to verl's validation batches the number of samples that each row's task asks for."""

    def __init__(
        self, batches: Iterable[dict[str, Any]], names: Iterable[str], others: int
    ) -> None:
        """Wrap `batches`. Rows of no task in `names` get `others` samples."""
        self.batches, self.others = batches, others
        self.by_source = samples_by_source(names)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield batches with the column from which verl reads the number."""
        for batch in self.batches:
            samples = [self.by_source.get(name, self.others) for name in batch["data_source"]]
            yield {**batch, "__rollout_n__": np.array(samples, dtype=object)}


class Validated(NamedTuple):
    """Hold the responses of a validation to one data source."""

    rows_P: dict[str, list[int]]
    """Row numbers by prompt."""
    missing_P: dict[str, int]
    """Responses that were asked for and failed, by prompt. They count as incorrect, as in verl."""


def validation_metrics(
    sources: list[str],
    uids: list[str],
    columns: Columns,
    expected: Mapping[tuple[str, str], int],
    settings: RewardSettings,
) -> dict[str, float]:
    """Return the metrics of a validation: `val-core/SOURCE/acc/mean@n`, pass@n, maj@n and others.

    Args:
        sources: the data source of each response.
        uids: its prompt.
        columns: what `reward.score` said of each response.
        expected: responses that were asked for, by data source and prompt.
        settings: of the reward, by which answers are compared.
    """
    by_source: dict[str, Validated] = {}
    for (source, uid), asked in expected.items():
        found = by_source.setdefault(source, Validated({}, {}))
        found.rows_P[uid], found.missing_P[uid] = [], asked
    for number, (source, uid) in enumerate(zip(sources, uids, strict=True)):
        by_source[source].rows_P[uid].append(number)
        by_source[source].missing_P[uid] -= 1
    metrics: dict[str, float] = {}
    grader = Grader(settings)
    try:
        for source, found in by_source.items():
            known = settings.find(source)
            is_code = isinstance(known, Source) and not known.forms
            metrics |= source_metrics(source, found, columns, is_code, grader)
    finally:
        grader.close()
    return metrics


def source_metrics(
    source: str, found: Validated, columns: Columns, is_code: bool, grader: Grader
) -> dict[str, float]:
    """Return the metrics of one data source."""
    samples_P = [
        [Graded(bool(columns["acc"][row]), "" if is_code else columns["pred"][row]) for row in rows]
        + [Graded(False, "")] * found.missing_P[uid]
        for uid, rows in found.rows_P.items()
    ]
    most = len(samples_P[0])
    metrics = {
        f"val-{'core' if name.endswith(f'@{most}') else 'aux'}/{source}/acc/{name}": value
        for name, value in scores(samples_P, grader).items()
    }
    every = [row for rows in found.rows_P.values() for row in rows]
    for name in ("reward", *COUNTED, "seconds"):
        if every:
            value = fmean(float(columns[name][row]) for row in every)
            metrics[f"val-aux/{source}/{name}"] = value
    metrics[f"val-aux/{source}/failed"] = float(sum(found.missing_P.values()))
    return metrics
