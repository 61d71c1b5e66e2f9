"""The driver's part of a step, on a batch that TransferQueue only seems to hold."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from recipe.maths.responses import Responses
from recipe.training import responses as training_responses
from recipe.training import trainer

LIMIT = 12


class Rows(NamedTuple):
    """What verl's trainer has of a batch."""

    uids: list[str]
    lengths: list[int]
    scores: list[float]
    advantages: list[float]


# Two mixed groups, one without variance, and a row of padding; the last of group b is truncated.
ROWS = Rows(
    ["a", "b", "a", "b", "c", "c", "pad"],
    [3, 4, 5, 12, 6, 8, 1],
    [1.0, 1.0, -1.0, -1.0, 0.3, 0.3, 0.0],
    [1.0, 1.0, -1.0, -1.0, 0.03, 0.03, 0.0],
)
# With a group of several wrong responses beside, and one of wrong responses alone.
WIDE = Rows(
    [*ROWS.uids, "d", "d", "d", "e", "e"],
    [*ROWS.lengths, 2, 3, 7, 4, 9],
    [*ROWS.scores, 1.0, -1.0, -1.0, -1.0, -1.0],
    [*ROWS.advantages, 1.2, -0.6, -0.6, 0.0, 0.0],
)
PROBLEM = "Calculate.\n\n3 + 8 - 2"


def nested(rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def batch(rows=ROWS):
    """The columns after verl has computed its advantages."""
    numbers = zip(rows.lengths, rows.scores, strict=True)
    return {
        "advantages": nested([[a] * n for a, n in zip(rows.advantages, rows.lengths, strict=True)]),
        "response_mask": nested(
            [[float(u != "pad")] * n for u, n in zip(rows.uids, rows.lengths, strict=True)]
        ),
        "responses": nested([list(range(n)) for n in rows.lengths]),
        "old_log_probs": nested([[-0.1 * (i + 1)] * n for i, n in enumerate(rows.lengths)]),
        # verl's actor returns it over prompt and response.
        "sum_pi_squared": nested([[0.9**i] * (n + 2) for i, n in enumerate(rows.lengths)]),
        "rm_scores": nested([[0.0] * (n - 1) + [score] for n, score in numbers]),
        "raw_prompt": np.array([[{"role": "user", "content": PROBLEM}] for _ in rows.uids]),
        "reward_model": np.array([{"ground_truth": "9"} for _ in rows.uids]),
        "extra_fields": np.array(
            [
                {"reward_extra_info": {"acc": float(s > 0), "timeout": 1.0, "format": 1.0}}
                for s in rows.scores
            ]
        ),
    }


def decode(tokens, skip_special_tokens):
    """Return a wrong solution. Its first step is right if the response has an odd length."""
    first = 11 if len(tokens) % 2 else 12
    return f"3 + 8 = {first}\n{first} - 2 = {first - 3}\nAnswer: {first - 3}"


class Bare(trainer.AggregationMixin):
    """The mixin without verl's set-up."""

    def __init__(self, config: DictConfig) -> None:
        self.config, self.timing_raw = config, {}
        self.tokenizer = SimpleNamespace(decode=decode)
        self.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0]})
        self.begin(config)

    def on_sample_end(self): ...

    def on_step_end(self): ...


def meta(rows=ROWS) -> KVBatchMeta:
    """Keys and tags, as verl has them."""
    tags = [
        {"response_len": length, "seq_len": length + 2, "is_padding": uid == "pad"}
        for uid, length in zip(rows.uids, rows.lengths, strict=True)
    ]
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(rows.uids)]
    return KVBatchMeta(partition_id="train", keys=keys, tags=tags)


def responses(**columns):
    """Responses that differ in what is given: at least `score_N`."""
    num = len(columns["score_N"])
    base = {
        "length_N": torch.ones(num, dtype=torch.long),
        "num_tokens_N": torch.ones(num, dtype=torch.long),
        "advantage_N": torch.zeros(num),
        "correct_N": columns["score_N"] > 0,
        "truncated_N": torch.zeros(num) > 0,
        "group_N": torch.zeros(num, dtype=torch.long),
        "real_N": torch.ones(num) > 0,
        "micro_N": None,
        "final_N": torch.arange(num),
        "info_N": [{}] * num,
        "mask_NT": None,
        "tokens_NT": None,
    }
    return Responses(**base | columns)


def add_columns(monkeypatch, config: DictConfig, rows=ROWS) -> tuple[dict, dict]:
    """Run the mixin on the batch; returns what it put into it, and the metrics."""
    put, metrics, columns, sent = {}, {}, batch(rows), meta(rows)

    def get(keys, partition_id, select_fields):
        places = [sent.keys.index(key) for key in keys]
        whole = {name: columns[name] for name in select_fields}
        if len(places) == len(sent.keys):
            return whole
        return {name: column[places] for name, column in whole.items()}

    monkeypatch.setattr(training_responses.tq, "kv_batch_get", get)
    monkeypatch.setattr(trainer.tq, "kv_batch_put", lambda *_, fields: put.update(fields))
    mixin = Bare(config)
    mixin._add_columns(sent, metrics)
    return put, metrics
