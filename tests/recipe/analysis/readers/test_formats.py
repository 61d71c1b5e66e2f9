"""Files that the frameworks themselves wrote (tests/peers/make_*.py), read and analysed."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from recipe.analysis.readers.choose import READERS, choose
from recipe.analysis.rollouts import Options
from recipe.base.errors import UserError
from scripts.tiny_tokenizer import build_tokenizer

DATA = Path(__file__).parents[1] / "data"
# The tokens of `Answer: 1` to `Answer: 10000000` with the end token, as make_dumps.py has them.
TOKENS = [4, 5, 10, 11]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer that all samples were made with."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return str(folder)


def read(*paths, form=None, **options):
    reader, files = choose(paths, form)
    return reader, reader.read(files, Options(**options))


def edited(tmp_path, name, change):
    """A JSONL sample with its first row changed."""
    lines = (DATA / name).read_text().splitlines()
    row = json.loads(lines[0])
    change(row)
    path = tmp_path / Path(name).name
    path.write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    return path


def test_completions_of_trl_have_its_advantages_and_the_tokens_of_their_texts(tokenizer):
    reader, found = read(DATA / "trl", tokenizer=tokenizer)
    assert reader.name == "trl"
    assert found.step_N.tolist() == [1] * 8 + [2] * 8
    assert found.group_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    # A right one among three wrong ones, and so on: each group's advantages add up to 0.
    sums = np.bincount(found.group_N, found.advantage_N)
    assert np.abs(sums).max() < 1e-3 and (found.advantage_N != 0).any()
    # 48 new tokens were allowed, and most random responses end there.
    assert found.length_N.max() >= 45 and found.length_N.min() < 40


def test_the_output_folder_of_trl_is_enough(tmp_path, tokenizer):
    shutil.copytree(DATA / "trl", tmp_path / "run/completions")
    assert len(read(tmp_path / "run", tokenizer=tokenizer)[1].step_N) == 16


def test_the_table_that_trl_gives_to_wandb_has_the_same_responses(tokenizer):
    """TRL logs the last batch again at the end of training: it counts once."""
    reader, found = read(DATA / "trl_wandb", tokenizer=tokenizer)
    files = read(DATA / "trl", tokenizer=tokenizer)[1]
    assert reader.name == "trl"
    for name in ("step_N", "group_N", "length_N", "advantage_N"):
        np.testing.assert_allclose(getattr(found, name), getattr(files, name))
    assert any("Left out: 1 file" in note for note in found.notes)


def test_chat_messages_of_trl_are_counted_by_their_contents(tmp_path, tokenizer):
    rows = [
        [
            1,
            [{"role": "user", "content": "1 + 1 = "}],
            [{"role": "assistant", "content": "Answer: 2"}],
            float(right),
            1.0 if right else -1.0,
        ]
        for right in (0, 1)
    ]
    columns = ["step", "prompt", "completion", "correct", "advantage"]
    path = tmp_path / "completions_1.table.json"
    path.write_text(json.dumps({"columns": columns, "data": rows}))
    found = read(path, tokenizer=tokenizer)[1]
    assert (found.group_N.tolist(), found.length_N.tolist()) == ([0, 0], [3, 3])


def test_a_train_batch_of_skyrl_counts_the_tokens_of_its_loss_mask():
    reader, found = read(DATA / "skyrl")
    assert reader.name == "skyrl"
    assert found.step_N.tolist() == [1] * 8 + [2] * 8
    assert found.group_N.tolist() == [number // 4 for number in range(16)]
    # The first token of the last response was masked; a row a step was padding.
    assert found.length_N.tolist() == [*TOKENS, 4, 5, 10, 10] * 2
    assert found.num_padding == 2
    assert (np.sign(found.advantage_N) == [1, 1, -1, -1] * 4).all()


def test_evaluations_of_skyrl_are_counted_by_the_tokenizer(tokenizer):
    folder = DATA / "skyrl/dumped_evals"
    _, found = read(folder, tokenizer=tokenizer)
    assert found.step_N.tolist() == [1] * 8 + [2] * 8
    assert found.length_N.tolist() == TOKENS * 4
    assert found.score_N.tolist() == [1, 1, 0, 0] * 4 and found.advantage_N is None
    assert "not trained on" in found.notes[0]
    with pytest.raises(UserError, match=r"no token counts.*--tokenizer"):
        read(folder)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    ran = tmp_path / "ran"

    class Bad:
        def __reduce__(self):
            return Path.touch, (ran,)

    path = tmp_path / "global_step_1_training_input.pkl"
    path.write_bytes(pickle.dumps(Bad()))
    with pytest.raises(UserError, match=r"which is not loaded.*dump_data_batch"):
        read(path)
    assert not ran.exists()


def test_traces_of_prime_rl_count_sampled_tokens_and_have_its_advantages():
    reader, found = read(DATA / "prime_rl")
    assert reader.name == "prime-rl"
    assert found.step_N.tolist() == [1] * 8 + [2] * 8
    assert found.group_N.tolist() == [number // 4 for number in range(16)]
    assert found.length_N.tolist() == TOKENS * 4
    assert found.score_N.tolist() == [1, 1, 0, 0] * 4
    assert found.advantage_N.tolist() == [0.5, 0.5, -0.5, -0.5] * 4


def test_agents_of_prime_rl_that_are_not_trained_are_left_out(tmp_path):
    def frozen(row):
        row["traces"][0]["agent"]["trainable"] = False

    path = edited(tmp_path, "prime_rl/rollouts/step_1/train/effective/traces.jsonl", frozen)
    found = read(path)[1]
    # A file outside its folder has its step in the rows.
    assert found.step_N.tolist() == [1] * 7 and found.length_N.tolist() == [*TOKENS[1:], *TOKENS]


def test_rollouts_of_slime_count_the_tokens_of_their_loss_mask():
    reader, found = read(DATA / "slime")
    assert (reader.name, reader.default_rule) == ("slime", "sequence")
    assert found.step_N.tolist() == [0] * 8 + [1] * 8
    assert found.group_N.tolist() == [number // 4 for number in range(16)]
    assert found.length_N.tolist() == [*TOKENS, 4, 5, 10, 10] * 2
    assert found.score_N.tolist() == [1, 1, 0, 0] * 4


def test_a_reward_of_slime_with_parts_is_named(tmp_path):
    content = torch.load(DATA / "slime/0.pt")
    for sample in content["samples"]:
        sample["reward"] = {"math": sample["reward"], "format": 1.0}
    path = tmp_path / "0.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"row 1: .*parts math, format.*--columns reward=NAME"):
        read(path)
    found = read(path, form="slime", columns={"reward": "math"})[1]
    assert found.score_N.tolist() == [1, 1, 0, 0] * 2


def test_a_file_of_torch_that_is_no_rollout_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "0.pt")
    with pytest.raises(UserError, match=r"no rollout of slime.*--save-debug-rollout-data"):
        read(tmp_path)


def test_the_table_of_openrlhf_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "generated_samples_1.table.json"
    table = {"columns": ["global_step", "text", "reward"], "data": [[1, "1 + 1 = 2", 1.0]]}
    path.write_text(json.dumps(table))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match=r"one response a step.*reward function.*--columns"):
            read(given)


@pytest.mark.parametrize("name", ["skyrl", "prime_rl", "slime"])
def test_a_dump_that_counts_tokens_refuses_another_way_to_count(name):
    with pytest.raises(UserError, match=r"--tokenizer is x.*Leave --tokenizer out"):
        read(DATA / name, tokenizer="x")


def test_a_bad_row_is_named_and_can_be_skipped(tmp_path):
    def without_group(row):
        del row["group"]

    path = edited(tmp_path, "prime_rl/rollouts/step_2/train/effective/traces.jsonl", without_group)
    with pytest.raises(UserError, match=r"row 1: found .*no 'group'.*--skip-bad"):
        read(path)
    found = read(path, skip_bad=True)[1]
    assert (found.num_bad, len(found.step_N)) == (1, 7)


def test_what_is_no_dump_is_answered_with_what_is_known(tmp_path):
    with pytest.raises(UserError, match="missing does not exist"):
        read(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"verl: \*.jsonl.*trl: .*--format.*--columns"):
        read(tmp_path)
    with pytest.raises(UserError, match="Known are slime: "):
        read(tmp_path, form="slime")


def test_each_format_has_a_name_and_a_known_rule():
    assert list(READERS) == ["verl", "trl", "skyrl", "prime-rl", "slime", "openrlhf", "table"]
    assert {reader.default_rule for reader in READERS.values()} == {"token_batch", "sequence"}
