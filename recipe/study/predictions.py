"""Measure what the estimator says of a cell, and refuse to train before it is committed.

A prediction that is written after the runs is none. Git says which came first.
"""

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.base.files import write_atomically
from recipe.base.paths import ROOT
from recipe.base.provenance import provenance
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.options import Options, check, default_folder
from recipe.study.plan import Study


def predict(
    study: Study, cell: str, config: DictConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Judge the rules by the estimator at the first policy, and write it.

    Args:
        study: the study.
        cell: name of the cell.
        config: a resolved config of the cell.
        say: shows progress.
    """
    options = Options(
        prompts=192,
        group=config.actor_rollout_ref.rollout.n,
        batch_groups=config.data.train_batch_size,
        rules=tuple(study.predict),
        advantage="std",
        baseline=study.predict[0],
        sketch=2**14,
        fresh=64,
        step_batches=3,
        sampler="transformers",
        seed=0,
    )
    check(options)
    result = judge(collect(config, options, default_folder(config, options), say), options, say)
    path = prediction_path(study, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result | {"cell": cell, **provenance("recipe.study")}, indent=1)
    write_atomically(path, text + "\n")
    return result


def prediction_path(study: Study, cell: str) -> Path:
    """Return the file of a cell's prediction."""
    return study.folder / "predictions" / f"{cell}.json"


def missing_predictions(study: Study, cells: Sequence[str]) -> list[str]:
    """Return the cells without a prediction; none if the study predicts nothing."""
    return [cell for cell in cells if study.predict and not prediction_path(study, cell).exists()]


def committed(study: Study, cell: str) -> dict[str, str] | None:
    """Return the commit and the hash of a cell's prediction; None if the study predicts nothing.

    Raises:
        UserError: HEAD has none, or another one.
    """
    if not study.predict:
        return None
    path = prediction_path(study, cell).relative_to(ROOT)
    text = git("show", f"HEAD:{path}")
    if text is None or text != (ROOT / path).read_bytes():
        raise UserError(
            f"the prediction {path} is not in HEAD as it stands in the folder. A regime is trained "
            f"only after its prediction was committed: run git add {path.parent}, git commit, and "
            f"the same command again."
        )
    commit = git("log", "-1", "--format=%H", "--", str(path))
    assert commit
    return {"commit": commit.decode().strip()[:12], "sha256": hashlib.sha256(text).hexdigest()[:16]}


def git(*words: str) -> bytes | None:
    """Return the output of a git command in this project; None if it failed."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
