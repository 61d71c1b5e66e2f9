import json

import pytest
from omegaconf import OmegaConf

from recipe.base.errors import UserError
from recipe.base.provenance import provenance
from recipe.run.folder import holds_same_run, new_folder, read_metrics, run_folder, write_summary

BASE = {
    "experiment_name": "cpu_demo",
    "output_root": "outputs",
    "seed": 3,
    "aggregation": {"rule": "token"},
    "lr": 1e-4,
}
NAMED = ["+experiment=cpu_demo", "aggregation=token", "seed=3"]


def folder_name(*overrides):
    return run_folder(OmegaConf.create(BASE), [*NAMED, *overrides]).name


def test_a_run_is_named_by_rule_and_seed():
    folder = run_folder(OmegaConf.create(BASE), NAMED)
    assert folder.parts[-3:] == ("outputs", "cpu_demo", "token-s3")


def test_other_overrides_give_a_hash_so_that_a_sweep_does_not_collide():
    names = {folder_name(f"lr={lr}") for lr in (1, 2, 3)}
    assert len(names) == 3
    assert all(name.startswith("token-s3-") for name in names)
    assert folder_name("a=1", "b=2") == folder_name("b=2", "a=1")


def test_where_runs_are_written_is_not_part_of_the_name():
    assert folder_name("output_root=elsewhere") == "token-s3"
    assert folder_name("trainer.resume_mode=auto") == "token-s3"


def test_another_config_in_the_same_folder_is_refused_with_the_key(tmp_path):
    folder = tmp_path / "run"
    assert not holds_same_run(folder, OmegaConf.create(BASE))
    new_folder(folder, OmegaConf.create(BASE | {"trainer": {"resume_mode": "auto"}}))
    assert holds_same_run(folder, OmegaConf.create(BASE | {"trainer": {"resume_mode": "disable"}}))
    with pytest.raises(UserError, match=r"it differs in lr\)"):
        holds_same_run(folder, OmegaConf.create(BASE | {"lr": 1e-3}))
    assert OmegaConf.load(folder / "config.yaml").lr == 1e-4


def test_an_earlier_run_of_the_same_config_is_moved_aside(tmp_path):
    folder = tmp_path / "run"
    for attempt in range(3):
        new_folder(folder, OmegaConf.create(BASE))
        (folder / "metrics.jsonl").write_text(str(attempt))
    kept = {path.name: (path / "metrics.jsonl").read_text() for path in tmp_path.iterdir()}
    assert kept == {"run~1": "0", "run~2": "1", "run": "2"}


def test_a_summary_says_how_it_was_made(tmp_path):
    write_summary(tmp_path, {"seed": 3, **provenance()})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["versions"]["verl"] == "0.9.1"
    assert summary["command"].startswith("python -m recipe.main")
    assert {"commit", "seed"} <= summary.keys()


def test_metrics_are_read_in_order(tmp_path):
    lines = [json.dumps({"step": step, "data": {"x": step * 2}}) for step in (0, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert read_metrics(tmp_path) == [(0, {"x": 0}), (1, {"x": 2})]
