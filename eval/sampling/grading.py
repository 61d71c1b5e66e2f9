"""Grade the samples of a task, and score them."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from eval.sampling.samples import Sample
from recipe.base.files import write_atomically
from recipe.base.progress import progress
from recipe.tasks.scores import graded, scores
from recipe.tasks.task import Problems
from reward.errors import RewardError
from reward.grader import Grader, Row, Verdict
from reward.sources import RewardSettings, Source

# Outcomes that a table shows a rate of.
UNREAD = ("no_answer", "parse_error", "timeout")


def grade(
    samples: Sequence[Sample],
    problems: Problems,
    settings: RewardSettings,
    kept: Path,
    terminal: TextIO,
) -> dict[str, Any]:
    """Grade all samples of a task with the training reward, and score them.

    Args:
        samples: of every problem equally many, by problem.
        problems: what they answer.
        settings: of the reward.
        kept: where each sample goes with its verdict, as JSON lines.
        terminal: for the progress bar.

    Returns:
        metrics, rates, length, right and the seconds of grading, as a result file has them.

    Raises:
        RewardError: the machinery failed, or a scorer of one's own gave no number.
    """
    start = time.monotonic()
    grader = Grader(settings)
    try:
        verdicts = []
        rows = (row(one, problems, settings) for one in samples)
        with progress(total=len(samples), desc=f"grading {kept.parent.name}", file=terminal) as bar:
            for verdict in grader.grade_many(rows):
                verdicts.append(verdict)
                bar.update()
        broken = next((v for v in verdicts if not isfinite(v.score)), None)
        if broken:
            raise RewardError(f"a response has no reward: {broken.error or broken.extra}")
        source = settings.find(problems.rows[0]["data_source"])
        is_code = isinstance(source, Source) and not source.forms
        lines = (
            graded_line(one, verdict, problems.rows[one.problem], is_code)
            for one, verdict in zip(samples, verdicts, strict=True)
        )
        write_atomically(kept, "".join(lines))
        samples_P = [[] for _ in problems.rows]
        for one, verdict in zip(samples, verdicts, strict=True):
            samples_P[one.problem].append(graded(verdict, is_code))
        metrics = scores(samples_P, grader)
    finally:
        grader.close()
    return {
        "metrics": metrics,
        "rates": {
            "truncated": fmean(one.truncated for one in samples),
            **{name: fmean(v.outcome == name for v in verdicts) for name in UNREAD},
        },
        "length": mean_lengths(samples, verdicts),
        "correct": [sum(one.correct for one in of_problem) for of_problem in samples_P],
        "tokens": sum(one.num_tokens for one in samples),
        "seconds": {"grading": round(time.monotonic() - start, 1)},
    }


def verdict_settings(settings: RewardSettings) -> dict[str, Any]:
    """Return the settings that may change a verdict."""
    return {name: value for name, value in asdict(settings).items() if name != "workers"}


def row(sample: Sample, problems: Problems, settings: RewardSettings) -> Row:
    """Return the row that the grader takes for a sample."""
    given = problems.rows[sample.problem]
    source = settings.find(given["data_source"])
    truth = given["reward_model"]["ground_truth"]
    return Row(sample.response, truth, source, given.get("extra_info") or {})


def graded_line(sample: Sample, verdict: Verdict, given: dict[str, Any], is_code: bool) -> str:
    """Return a sample with its verdict as a line of JSON that `python -m reward.grade` reads.

    The tests of code are megabytes, and stay in the task's file.
    """
    whole = {**sample._asdict(), "data_source": given["data_source"]}
    if not is_code:
        whole["ground_truth"] = given["reward_model"]["ground_truth"]
    found = verdict._asdict()
    return json.dumps({**whole, **found.pop("extra"), **found}, ensure_ascii=False) + "\n"


def mean_lengths(samples: Sequence[Sample], verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """Return the mean tokens of all, correct and incorrect responses; None if there are none."""
    pairs = [(s.num_tokens, v.outcome == "correct") for s, v in zip(samples, verdicts, strict=True)]
    groups = {
        "mean": [tokens for tokens, _ in pairs],
        "correct": [tokens for tokens, correct in pairs if correct],
        "incorrect": [tokens for tokens, correct in pairs if not correct],
    }
    return {name: fmean(tokens) if tokens else None for name, tokens in groups.items()}
