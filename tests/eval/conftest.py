import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eval.sampling import task_sampling
from recipe.sampling.vllm_engine import SampledResponse
from scripts.tiny_tokenizer import build_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def model(tmp_path, tokenizer):
    """A folder as transformers saves a model, with weights that nothing here computes with."""
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


class Engine:
    """Stands for vLLM: says what it is told to, and may be cut off after some responses."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.asked = []
        self.arguments = {}
        self.dies_after = None
        self.says = lambda request: "Answer: 1"

    def sample(self, arguments, requests, keep):
        self.arguments = arguments
        for number, request in enumerate(requests):
            if number == self.dies_after:
                raise ExceptionGroup("tasks", [RuntimeError("the engine died")])
            self.asked.append(request)
            tokens = self.tokenizer.encode(self.says(request))
            cut = tokens[: request.max_tokens]
            keep(request, SampledResponse(cut, len(cut) < len(tokens)))


@pytest.fixture
def engine(monkeypatch, tokenizer):
    made = Engine(tokenizer)
    monkeypatch.setattr(task_sampling, "sample", made.sample)
    # What stops a command must not stop the tests' own handling of it.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return made


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Call the command; its exit status and the folder of results."""
    from eval import run

    def call(*words: object) -> Path:
        words = ["eval.run", *map(str, words), "--out", str(tmp_path / "eval")]
        monkeypatch.setattr("sys.argv", [*words, "--data-root", str(tmp_path / "out")])
        run.main()
        return tmp_path / "eval" / "model"

    return call
