import subprocess

import pytest

from recipe.base.errors import UserError
from recipe.study import plan, predictions
from recipe.study.plan import Study
from recipe.study.predictions import committed, missing_predictions, prediction_path


@pytest.fixture
def study(tmp_path, monkeypatch):
    for module in (plan, predictions):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    return Study(
        overrides=[],
        cells={"one": [], "other": []},
        arms={},
        learning_rates=[1e-4],
        selection_seeds=[],
        seeds=2,
        held_out_every=1,
        held_out_samples=1,
        results="results",
        predict=["token"],
    )


def git(folder, *words):
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)


def write(study, text):
    path = prediction_path(study, "one")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_cell_is_trained_only_with_the_prediction_that_head_has(study, tmp_path):
    with pytest.raises(UserError, match="is not in HEAD"):
        committed(study, "one")
    write(study, "first")
    assert missing_predictions(study, ["one", "other"]) == ["other"]
    with pytest.raises(UserError, match="git add results/predictions, git commit"):
        committed(study, "one")
    git(tmp_path, "add", ".")
    with pytest.raises(UserError, match="is not in HEAD"):
        committed(study, "one")
    git(tmp_path, "commit", "-qm", "predict")
    first = committed(study, "one")
    assert len(first["commit"]) == 12 and len(first["sha256"]) == 16
    # One that was changed after the commit is none.
    write(study, "second")
    with pytest.raises(UserError, match="is not in HEAD"):
        committed(study, "one")
    git(tmp_path, "commit", "-qam", "predict anew")
    second = committed(study, "one")
    assert second["commit"] != first["commit"] and second["sha256"] != first["sha256"]


def test_a_study_that_predicts_nothing_needs_no_prediction(study):
    free = Study(**{**study.__dict__, "predict": []})
    assert missing_predictions(free, ["one"]) == []
    assert committed(free, "one") is None
