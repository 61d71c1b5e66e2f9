"""Losses, rules and settings together: one running stack, another config each step."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from variants import VARIANTS

from recipe import embedded

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]
MODEL = Path(embedded.folder("length_gap")) / "model"
NUM_ROWS, LIMIT = 64, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a run of all variants wrote."""
    folder = tmp_path_factory.mktemp("variants") / "run"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    run = subprocess.run(
        [sys.executable, "tests/variants.py", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def steps(folder):
    """The metrics of each variant's step, by its name."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return dict(zip(VARIANTS, (json.loads(line)["data"] for line in lines), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains(name, steps):
    data = steps[name]
    assert math.isfinite(data["actor/pg_loss"])
    assert 0 < data["actor/grad_norm"] < 10
    assert 0 < data["actor/update_norm"] < 1
    assert data["aggregation/num_positive"] > 0
    assert data["aggregation/num_negative"] > 0


# Those whose token loss is -A at ratio 1.
RATIO = set(VARIANTS) - {
    "dppo_tv", "dppo_kl", "gpg", "cispo", "two_epochs", "two_mini_batches"
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in VARIANTS if name in RATIO])
def test_an_on_policy_loss_is_the_one_expected_in_closed_form(name, steps):
    data = steps[name]
    expected = data["aggregation/pg_loss_expected"]
    assert data["actor/pg_loss"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_rules_with_a_length_gap_in_their_loss_show_it(steps):
    assert abs(steps["gspo"]["actor/pg_loss"]) > 1e-3
    assert abs(steps["vanilla"]["actor/pg_loss"]) < 1e-6


def test_entropy_bonus_and_kl_loss_are_added(steps):
    assert steps["entropy_bonus"]["actor/entropy_loss"] > 0
    assert steps["kl_loss"]["actor/kl_loss"] > 0
    assert "actor/kl_loss" not in steps["vanilla"]


def test_later_epochs_and_mini_batches_are_off_policy_by_a_little(steps):
    for name in ("two_epochs", "two_mini_batches"):
        data = steps[name]
        assert data["actor/ppo_kl"] != 0
        expected = data["aggregation/pg_loss_expected"]
        assert data["actor/pg_loss"] == pytest.approx(expected, rel=0.2)


def test_the_slope_by_the_learned_scalar_is_measured(steps):
    for name in ("lambda", "cispo", "two_mini_batches"):
        assert steps[name]["actor/scalar_slope"] != 0
    assert "actor/scalar_slope" not in steps["vanilla"]


def test_masked_truncated_responses_leave_the_objective(steps):
    masked, kept = steps["mask_truncated"], steps["vanilla"]
    assert masked["aggregation/truncated_negative"] > 0
    assert masked["aggregation/length_negative"] < LIMIT
    for data, all_count in ((masked, False), (kept, True)):
        groups = data["aggregation/num_groups"] - data["aggregation/num_zero_groups"]
        num = data["aggregation/num_positive"] + data["aggregation/num_negative"]
        assert (num == groups * 8) is all_count


def test_dropped_zero_groups_are_no_groups(steps):
    assert steps["drop_zero_groups"]["aggregation/num_zero_groups"] == 0


def test_rollout_correction_weights_and_rejects(steps):
    for name in ("token_weights", "sequence_weights"):
        mean = steps[name]["rollout_corr/rollout_is_mean"]
        assert mean == pytest.approx(1, abs=1e-2)
    data = steps["rejection"]
    assert 0.01 < data["rollout_corr/rollout_rs_token_k1_masked_fraction"] < 0.99
    num = data["aggregation/num_positive"] + data["aggregation/num_negative"]
    tokens = data["aggregation/tokens_positive"] + data["aggregation/tokens_negative"]
    assert tokens / num < data["response_length/mean"]


def test_the_analysis_of_the_dump_agrees_with_the_metrics_of_the_run(folder, steps, tmp_path):
    """Up to the tokens that its text does not show: the end token, dropped when decoding."""
    subprocess.run(
        [
            sys.executable, "-m", "recipe.analyze", str(folder / "rollouts"),
            "--tokenizer", str(MODEL), "--out", str(tmp_path),
        ],
        cwd=ROOT, check=True, timeout=120,
    )  # fmt: skip
    found = json.loads((tmp_path / "analysis.json").read_text())["steps"]
    assert len(found) == len(VARIANTS)
    for number, name in enumerate(VARIANTS, start=1):
        # These two train on other responses or tokens than the dump shows.
        if name not in ("mask_truncated", "rejection"):
            for key in ("share_negative/token", "share_negative/token_batch", "length_gap"):
                measured = steps[name][f"aggregation/{key}"]
                assert found[str(number)][key]["value"] == pytest.approx(measured, abs=0.05), key
