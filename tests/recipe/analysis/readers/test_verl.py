import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dumps import row, write
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo import padding_utils
from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.analysis.readers import verl
from recipe.analysis.readers.verl import Verl, read_dumps, split_uid
from recipe.analysis.rollouts import Lengths, Options
from recipe.base.errors import UserError
from scripts.tiny_tokenizer import build_tokenizer

COLUMN = Lengths("response_length", "tokens")
TEXTS = Lengths("output", "characters", lambda texts: [len(text) for text in texts])


def read(path, has_uid=True, lengths=COLUMN, **options):
    return read_dumps([path], has_uid, lengths, **options)


class Store:
    """What verl keeps in its transfer queue, in a dictionary."""

    def __init__(self, samples):
        self.samples = samples

    def kv_batch_get(self, keys, partition_id, select_fields=None):
        names = select_fields or list(self.samples[keys[0]])
        return list_of_dict_to_tensordict(
            [{name: self.samples[key][name] for name in names} for key in keys]
        )

    def kv_batch_put(self, keys, partition_id, fields: TensorDict, tags):
        for place, key in enumerate(keys):
            self.samples[key] = {name: fields[place][name] for name in fields.keys()}


@pytest.fixture
def dump_of_verl(tmp_path, monkeypatch):
    """Six responses of two prompts, padded to eight and dumped by verl's own code."""
    tokenizer = build_tokenizer()
    samples = {}
    for number in range(6):
        # Out of order, as asynchronous rollouts end.
        prompt, session = f"{number % 2:032x}", number // 2
        response = [*tokenizer.encode(f"Answer: {10**number}"), tokenizer.eos_token_id]
        samples[f"{prompt}_{session}_0"] = {
            "uid": prompt,
            "prompts": torch.tensor(tokenizer.encode("1 + 1 = ")),
            "responses": torch.tensor(response),
            "rm_scores": torch.tensor([0.0] * (len(response) - 1) + [float(number < 3)]),
            "reward_model": {"ground_truth": "2"},
        }
    store = Store(samples)
    for module in (padding_utils, trainer_base):
        monkeypatch.setattr(module, "tq", store)
    keys = list(samples)
    batch = KVBatchMeta(keys=keys, tags=[{} for _ in keys], partition_id="train")
    batch = padding_utils.upsample_batch_to_divisible_size(batch, 8, tokenizer.eos_token_id)
    trainer = SimpleNamespace(
        tokenizer=tokenizer,
        _dump_generations=partial(trainer_base.PPOTrainer._write_generations, global_steps=7),
    )
    trainer_base.PPOTrainer._log_rollout_data(trainer, batch, {}, str(tmp_path))
    return tmp_path / "7.jsonl"


def test_a_dump_by_verl_is_read_without_its_padding_rows(dump_of_verl):
    assert len(dump_of_verl.read_text().splitlines()) == 8
    found = read(dump_of_verl, lengths=TEXTS)
    assert (found.num_padding, found.num_bad) == (2, 0)
    assert found.step_N.tolist() == [7] * 6
    assert found.group_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.sample_N.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.score_N.tolist() == [1, 1, 0, 1, 0, 0]
    powers = [0, 2, 4, 1, 3, 5]
    assert found.length_N.tolist() == [len(f"Answer: {10**power}") for power in powers]


def test_a_dump_without_uid_is_grouped_by_step_and_input(tmp_path):
    rows = [row(number, step=step) for step in (1, 2) for number in (0, 4, 1, 5)]
    path = write(tmp_path / "all.jsonl", [{k: v for k, v in r.items() if k != "uid"} for r in rows])
    found = read(path, has_uid=False)
    assert found.group_N.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert found.grouped_by == "input"
    assert len(np.unique(found.sample_N)) == 8


@given(st.text(min_size=1), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_uid_is_a_prompt_a_sample_and_an_output(prompt, sample, output):
    assert split_uid(f"{prompt}_{sample}_{output}") == (prompt, sample, output)


@pytest.mark.parametrize("uid", ["a1b2", "my_prompt", "a_1", "a_1_b", "_1_2"])
def test_a_uid_without_numbers_is_the_prompt_alone(uid):
    assert split_uid(uid) == (uid, None, 0)


BAD = {
    "no JSON": (b'{"score": 1.0, "st', "a line that is no JSON"),
    "no UTF-8": (b'{"score": \xff}', "a line that is no JSON"),
    "blank": (b"", "a line that is no JSON"),
    "a list": (b"[1, 2]", "Expected `object`, got `array`"),
    "no step": (json.dumps({k: v for k, v in row(0).items() if k != "step"}), "field `step`"),
    "no uid": (json.dumps({k: v for k, v in row(0).items() if k != "uid"}), "field `uid`"),
    "a NaN score": (json.dumps(row(0, score=float("nan"))), "the score nan"),
    "an infinite score": (json.dumps(row(0, score=float("inf"))), "the score inf"),
    "no score": (json.dumps(row(0, score=None)), r"got `null` - at `\$.score`"),
    "a huge step": (json.dumps(row(0, step=2**70)), r"\$.step"),
    "half a token": (json.dumps(row(0, response_length=2.5)), "the length 2.5"),
    "a negative length": (json.dumps(row(0, response_length=-1)), r"\$.response_length"),
    "a NaN length": (json.dumps(row(0, response_length=float("nan"))), "length"),
}


@pytest.mark.parametrize("line, said", BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_what_was_found_and_what_to_do(line, said, tmp_path):
    path = write(tmp_path / "1.jsonl", [row(0), line, row(1)])
    with pytest.raises(UserError, match=f"1.jsonl:2: found .*{said}.* expected .*--skip-bad"):
        read(path)
    found = read(path, skip_bad=True)
    assert (found.num_bad, len(found.score_N)) == (1, 2)


def test_a_nan_in_a_column_that_is_not_read_does_no_harm(tmp_path):
    path = write(tmp_path / "1.jsonl", [row(0, acc=float("nan")), row(1)])
    assert read(path).score_N.tolist() == [1, 1]


def test_a_line_longer_than_a_chunk_is_read_completely(tmp_path, monkeypatch):
    monkeypatch.setattr(verl, "CHUNK_BYTES", 1000)
    rows = [row(0), row(1, output="é\n" * 10_000), row(2)]
    found = read(write(tmp_path / "1.jsonl", rows), lengths=TEXTS)
    assert found.length_N.tolist() == [10, 20_000, 20]


def test_lines_end_at_line_feeds_alone(tmp_path):
    """verl writes other separators of lines as they stand."""
    text = "a\u2028b\u0085c\x0b"
    lines = [json.dumps(row(number, output=text), ensure_ascii=False) for number in range(3)]
    assert len(read(write(tmp_path / "1.jsonl", lines), lengths=TEXTS).score_N) == 3


def test_a_whole_number_written_as_a_float_is_a_length(tmp_path):
    path = write(tmp_path / "1.jsonl", [row(0, response_length=7.0)])
    assert read(path).length_N.tolist() == [7]


def test_a_folder_gives_its_dumps_in_the_order_of_steps(tmp_path):
    for step in (10, 9, 1):
        write(tmp_path / f"{step}.jsonl", [row(0, step=step)])
    write(tmp_path / "notes.txt", ["nothing"])
    assert [path.stem for path in Verl().files(tmp_path)] == ["1", "9", "10"]


def test_groups_of_two_steps_stay_apart_when_prompts_come_again(tmp_path):
    for step in (1, 2):
        write(tmp_path / f"{step}.jsonl", [row(number, step=step) for number in range(2)])
    assert read_dumps(Verl().files(tmp_path), True, COLUMN).group_N.tolist() == [0, 0, 1, 1]


def test_a_step_in_two_files_is_refused(tmp_path):
    files = [write(tmp_path / name / "1.jsonl", [row(0)]) for name in ("one", "other")]
    with pytest.raises(UserError, match=r"step 1 is in .*one.* and in .*other"):
        read_dumps(files, True, COLUMN)


def test_a_dump_without_a_response_is_refused(tmp_path):
    with pytest.raises(UserError, match="no response was found in"):
        Verl().read([write(tmp_path / "1.jsonl", [])], Options())
    path = write(tmp_path / "2.jsonl", [row(0, uid=f"pad{0:032x}_0_0"), "{"])
    with pytest.raises(UserError, match="1 bad lines and 1 padding rows"):
        read(path, skip_bad=True)
