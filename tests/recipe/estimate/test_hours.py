from copy import deepcopy

import pytest
from omegaconf import OmegaConf

from recipe import cost, memory
from recipe.base.errors import UserError
from recipe.estimate.gpus import num_gpus
from recipe.estimate.hours import gpu_hours, rollout_seconds, training_seconds
from recipe.estimate.shapes import Shape

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


def test_an_update_recomputes_the_forward_pass_where_gradients_are_checkpointed(cell):
    """256 responses of 4,608 tokens on 8 GPUs at 0.19 of 989 TFLOP/s, worked out by hand.

    Matrices: 2 x 7,568,401,408 x 1,179,648 = 1.78561e16; attention: 2 x 36 x 4,096 x 256 x 4,608^2
    = 1.60309e15. A forward pass has 1.94592e16 operations, 12.944 s.
    """
    cell.data.train_batch_size = 32
    cell.estimate.utilization = 0.19
    shape = Shape.of(EIGHT_B)
    assert training_seconds(cell, shape) == pytest.approx(5 * 12.944, rel=1e-3)
    cell.actor_rollout_ref.model.enable_gradient_checkpointing = False
    assert training_seconds(cell, shape) == pytest.approx(4 * 12.944, rel=1e-3)


def test_separate_rollout_gpus_are_counted_and_sample(cell):
    """8 GPUs that train and 4 that sample, each of which gets twice the sequences."""
    shared = gpu_hours(cell)
    cell.actor_rollout_ref.rollout.nnodes = 2
    cell.actor_rollout_ref.rollout.n_gpus_per_node = 2
    assert num_gpus(cell) == 8
    cell.trainer.v1.trainer_mode = "separate_async"
    apart = gpu_hours(cell)
    assert num_gpus(cell) == apart.num_gpus == 12
    assert apart.total == pytest.approx(12 * apart.hours)
    assert apart.training_seconds == shared.training_seconds
    cell.trainer.v1.trainer_mode = "sync"
    cell.trainer.n_gpus_per_node = 4
    assert apart.rollout_seconds == gpu_hours(cell).rollout_seconds > shared.rollout_seconds
    assert "overlap" in apart.assumptions
    assert "overlap" not in shared.assumptions


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
    assert two.training_seconds == pytest.approx(one.training_seconds * 9 / 5)
    assert two.rollout_seconds == one.rollout_seconds


def test_a_run_without_a_number_of_steps_is_not_estimated(cell):
    OmegaConf.update(cell, "trainer.total_training_steps", None)
    with pytest.raises(UserError, match="total_training_steps is None"):
        gpu_hours(cell)


CELL = "+experiment=qwen3_1_7b_polaris"


@pytest.mark.parametrize("command", [cost, memory])
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([CELL, "data.train_batch_size=abc"], "data.train_batch_size is 'abc'"),
        ([CELL, "data.max_prompt_length=abc"], "data.max_prompt_length is 'abc'"),
        ([CELL, "estimate.utilization=0"], "estimate.utilization is 0, but must be a number"),
        ([CELL, "actor_rollout_ref.rollout.tensor_model_parallel_size=0"], "size is 0"),
        (["model=tiny", "cluster=gpu1"], "key 'data.task' not found. Choose what it comes from"),
    ],
)
def test_a_command_answers_a_mistake_in_one_paragraph(command, arguments, found, monkeypatch):
    said = leaves(command, arguments, monkeypatch)
    assert found in said


@pytest.mark.parametrize(("name", "found"), [("none.md", "No such file"), ("a.md", "no marks")])
def test_a_document_that_cannot_keep_the_table_is_named(name, found, monkeypatch, tmp_path):
    (tmp_path / "a.md").write_text("nothing")
    said = leaves(cost, ["table", "--into", str(tmp_path / name)], monkeypatch)
    assert f"--into is {tmp_path / name}: " in said
    assert found in said
    assert (tmp_path / "a.md").read_text() == "nothing"


@pytest.mark.parametrize("command", [cost, memory])
def test_a_command_shows_how_it_is_used(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    command.main()
    assert f"python -m {command.__name__} +experiment=" in capsys.readouterr().out


def leaves(command, arguments, monkeypatch) -> str:
    """What a command says as it leaves with 1."""
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    said = str(stop.value.code)
    assert said.startswith("error: ")
    assert "\n" not in said
    return said
