"""The driver's part of a step, on a batch that TransferQueue only seems to hold."""

import numpy as np
import torch
from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from recipe import trainer

LIMIT = 12
# Two mixed groups, one without variance, and a row of padding; the last of group b is truncated.
UIDS = ["a", "b", "a", "b", "c", "c", "pad"]
LENGTHS = [3, 4, 5, 12, 6, 8, 1]
SCORES = [1.0, 1.0, -1.0, -1.0, 0.3, 0.3, 0.0]
ADVANTAGES = [1.0, 1.0, -1.0, -1.0, 0.03, 0.03, 0.0]


def nested(rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def batch():
    """The columns after verl has computed its advantages."""
    return {
        "advantages": nested([[a] * n for a, n in zip(ADVANTAGES, LENGTHS, strict=True)]),
        "response_mask": nested(
            [[float(uid != "pad")] * n for uid, n in zip(UIDS, LENGTHS, strict=True)]
        ),
        "responses": nested([list(range(n)) for n in LENGTHS]),
        "rm_scores": nested([[0.0] * (n - 1) + [s] for s, n in zip(SCORES, LENGTHS, strict=True)]),
        "extra_fields": np.array(
            [
                {"reward_extra_info": {"acc": float(s > 0), "timeout": 1.0, "format": 1.0}}
                for s in SCORES
            ]
        ),
    }


class Bare(trainer.AggregationMixin):
    """The mixin without verl's set-up."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def on_sample_end(self): ...

    def on_step_end(self): ...


def add_columns(monkeypatch, config: DictConfig) -> tuple[dict, dict]:
    """Run the mixin on the batch; returns what it put into it, and the metrics."""
    put, metrics = {}, {}
    monkeypatch.setattr(trainer.tq, "kv_batch_get", lambda *_, **__: batch())
    monkeypatch.setattr(trainer.tq, "kv_batch_put", lambda *_, fields: put.update(fields))
    mixin = Bare(config)
    mixin.choose()
    tags = [
        {"response_len": length, "is_padding": uid == "pad"}
        for uid, length in zip(UIDS, LENGTHS, strict=True)
    ]
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(UIDS)]
    mixin._add_columns(KVBatchMeta(partition_id="train", keys=keys, tags=tags), metrics)
    return put, metrics
