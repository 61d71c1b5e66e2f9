import json

import pytest

from recipe.base.errors import UserError
from recipe.run import cluster
from recipe.run.journal import Journal


def test_a_ray_job_does_not_write_into_its_copy(monkeypatch):
    cluster.check_place("outputs")
    monkeypatch.setenv(cluster.JOB, "{}")
    cluster.check_place("/shared/outputs")
    with pytest.raises(UserError, match="output_root is outputs"):
        cluster.check_place("outputs")


def test_what_a_job_sets_is_left_to_it(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.begin(None, {"commit": None, "command": ""})
    alone = cluster.environment(journal, tmp_path)
    assert alone["WANDB_RUN_ID"] == journal.run_id
    assert alone["TMPDIR"] == str(tmp_path)
    given = {"runtime_env": {"env_vars": {"WANDB_RUN_ID": "of the sweep"}}}
    monkeypatch.setenv(cluster.JOB, json.dumps(given))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    in_a_job = cluster.environment(journal, tmp_path)
    # Ray refuses a variable that job and driver both set; other nodes lack the temporary folder.
    assert set(alone) - set(in_a_job) == {"WANDB_RUN_ID", "TMPDIR"}
