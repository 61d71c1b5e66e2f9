from copy import deepcopy
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from recipe.cost import gpu_hours, rollout_seconds, table, training_seconds
from recipe.errors import UserError
from recipe.shapes import Shape
from recipe.tables import between_marks

# config.json of Qwen/Qwen3-8B.
EIGHT_B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def composed_cell(composed):
    return composed(experiment="qwen3_1_7b_polaris")


@pytest.fixture
def cell(composed_cell):
    return deepcopy(composed_cell)


def test_the_published_step_is_met_within_a_fifth(cell):
    """SkyRL's DAPO step, 32 x 8 responses of up to 8,192 tokens on 8 H100; an 8B for its 9B."""
    cell.data.train_batch_size = 32
    shape = Shape.of(EIGHT_B)
    assert rollout_seconds(cell, shape) == pytest.approx(310, rel=0.2)
    assert training_seconds(cell, shape) == pytest.approx(57, rel=0.2)


def test_gpu_hours_are_those_of_all_gpus_and_steps(cell):
    found = gpu_hours(cell)
    seconds = found.num_steps * (found.rollout_seconds + found.training_seconds)
    assert (found.num_gpus, found.num_steps) == (8, 400)
    assert found.total == pytest.approx(8 * seconds / 3600)
    assert found.total == pytest.approx(8 * found.hours)
    assert "50% of their limits" in found.assumptions


def test_training_is_shared_by_gpus_and_rollout_waits_for_the_longest_response(cell):
    one = gpu_hours(cell)
    cell.trainer.nnodes = 4
    four = gpu_hours(cell)
    assert four.training_seconds == pytest.approx(one.training_seconds / 4)
    assert one.rollout_seconds / 4 < four.rollout_seconds < one.rollout_seconds
    assert four.total > one.total


def test_a_second_epoch_costs_a_second_update_and_no_second_rollout(cell):
    one = gpu_hours(cell)
    cell.actor_rollout_ref.actor.ppo_epochs = 2
    two = gpu_hours(cell)
    assert two.training_seconds == pytest.approx(one.training_seconds * 7 / 4)
    assert two.rollout_seconds == one.rollout_seconds


def test_the_table_of_the_document_is_the_estimate_as_it_is_now():
    document = (Path(__file__).parents[2] / "README.md").read_text()
    assert between_marks(document, "runs", table()) == document


def test_a_run_without_a_number_of_steps_is_not_estimated(cell):
    OmegaConf.update(cell, "trainer.total_training_steps", None)
    with pytest.raises(UserError, match="total_training_steps is None"):
        gpu_hours(cell)
