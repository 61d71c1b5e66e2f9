"""verl's asynchronous trainer modes, its group filtering, and a resumed learned scalar."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]
SAVED = 2


def run(outputs: Path, *overrides: str) -> tuple[Path, dict[int, dict[str, float]]]:
    """A run of the rule `lambda`; its folder, and its metrics by step."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "recipe.main",
            "+experiment=cpu_demo",
            "aggregation=lambda",
            f"output_root={outputs}",
            "trainer.test_freq=-1",
            "trainer.val_before_train=false",
            "aggregation.scalar.optimizer=adamw",
            *overrides,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [metrics] = outputs.glob("cpu_demo/*/metrics.jsonl")
    records = map(json.loads, metrics.read_text().splitlines())
    return metrics.parent, {record["step"]: record["data"] for record in records}


@pytest.fixture(scope="module")
def colocated(tmp_path_factory):
    return run(
        tmp_path_factory.mktemp("colocated"),
        "trainer.v1.trainer_mode=colocate_async",
        "algorithm.filter_groups.enable=true",
        "trainer.total_training_steps=3",
        f"trainer.save_freq={SAVED}",
    )


@pytest.fixture(scope="module")
def separate(tmp_path_factory, colocated):
    """Goes on from the other's checkpoint, without the responses in flight: older weights' work."""
    outputs = tmp_path_factory.mktemp("separate")
    checkpoint = outputs / f"global_step_{SAVED}"
    shutil.copytree(
        colocated[0] / "checkpoints" / checkpoint.name,
        checkpoint,
        ignore=shutil.ignore_patterns("transfer_queue"),
    )
    return run(
        outputs,
        "cluster=cpu_separate",
        "trainer.total_training_steps=5",
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={checkpoint}",
    )


def test_colocated_async_training_trains_every_step(colocated):
    assert list(colocated[1]) == [1, 2, 3]
    for data in colocated[1].values():
        assert data["actor/update_norm"] > 0


def test_group_filtering_leaves_no_group_without_variance(colocated):
    for data in colocated[1].values():
        assert data["aggregation/num_zero_groups"] == 0
        assert data["aggregation/num_groups"] == 8


def test_the_scalar_moves_against_its_slope(colocated):
    """AdamW's first step is its learning rate long."""
    steps = colocated[1]
    assert steps[1]["aggregation/lambda_scalar"] == 0
    sign = -1 if steps[1]["actor/lambda_scalar_gradient"] > 0 else 1
    assert steps[2]["aggregation/lambda_scalar"] == pytest.approx(0.1 * sign, rel=1e-4)
    assert steps[3]["aggregation/lambda_scalar"] != steps[2]["aggregation/lambda_scalar"]


def test_separate_async_training_goes_on_from_the_checkpoint(separate):
    assert list(separate[1]) == [3, 4, 5]
    for data in separate[1].values():
        assert data["actor/update_norm"] > 0


def test_the_scalar_goes_on_where_the_checkpoint_left_it(colocated, separate):
    before, after = colocated[1][SAVED + 1], separate[1][SAVED + 1]
    assert after["aggregation/lambda_scalar"] == before["aggregation/lambda_scalar"]


def test_weights_reach_the_separate_server(separate):
    """It samples with the trainer's weights, so the probabilities of its tokens agree."""
    first = separate[1][SAVED + 1]
    assert first["training/rollout_probs_diff_max"] < 5e-4
