"""Compare rules over many seeds in minutes: the small model, trained in worker processes.

    python -m recipe.study configs/study/finding.yaml            # all that is missing
    python -m recipe.study configs/study/finding.yaml --cells level_varied --jobs 2
    python -m recipe.study configs/study/finding.yaml --cells level_varied --out outputs/again

The first call measures what the estimator predicts for every cell, and asks you to commit it. The
same command then runs the study. It may be stopped at any time, and repeats no finished run.
`--out` repeats runs that the study already has. `python -m eval.study FOLDER` makes tables and
pictures of the results.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance
from recipe.config.compose import composed, resolve
from recipe.study.plan import Run, Study
from recipe.study.predictions import committed, missing_predictions, predict, prediction_path
from recipe.study.runs import Results, work_off
from recipe.tasks import embedded


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("recipe.study", __doc__)
    add = command.add_argument
    add("study", type=Path, metavar="FILE", help="a study, as configs/study has them")
    add("--cells", nargs="+", metavar="CELL", help="only these")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="workers (all CPUs)")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write results here, instead of beside those that the study already has",
    )
    return command


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    given = parser().parse_args()
    # Steps are small: on a busy machine threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    with errors_reported(stopped="stopped; the same command goes on"):
        run(Study.read(given.study), given.cells, given.jobs, given.out)


def run(study: Study, cells: Sequence[str] | None, jobs: int, out: Path | None = None) -> None:
    """Predict, or run what is missing.

    Args:
        study: the study.
        cells: the cells to work on; None for all.
        jobs: worker processes.
        out: folder of the results; None for the study's own.

    Raises:
        UserError: a cell does not exist, or its prediction is not committed.
    """
    unknown = set(cells or ()) - set(study.cells)
    if unknown:
        raise UserError(
            f"the study has no cell {', '.join(sorted(unknown))}. It has {', '.join(study.cells)}."
        )
    cells = list(cells or study.cells)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - started) / 60:5.1f} min  {text}", flush=True)

    unpredicted = missing_predictions(study, cells)
    for cell in unpredicted:
        say(f"{cell}: measuring what the estimator predicts")
        config = composed([*study.overrides, *study.cells[cell]])
        resolve(config)
        embedded.make(config.data.task)
        predict(study, cell, config, say)
        say(f"wrote {prediction_path(study, cell)}")
    if unpredicted:
        folder = prediction_path(study, cells[0]).parent.relative_to(ROOT)
        print(
            f"Predictions come before runs: git add {folder} and git commit, then give the same "
            f"command again."
        )
        return
    # Before the first result changes the folder.
    made_by = provenance("recipe.study")
    results = Results((out or study.folder) / "results.jsonl")
    for cell in cells:
        facts = made_by | {"prediction": committed(study, cell)}

        def work(runs: Sequence[Run], facts: dict[str, Any] = facts) -> None:
            if runs:
                work_off(study, runs, results, facts, jobs, say)

        config = composed([*study.overrides, *study.cells[cell]])
        embedded.make(config.data.task)
        work(results.missing(study, study.selection(cell)))
        work(results.missing(study, study.comparison(cell, study.rates(cell, results.rows))))
    say(f"all runs of {', '.join(cells)} have results in {results.path}")


if __name__ == "__main__":
    main()
