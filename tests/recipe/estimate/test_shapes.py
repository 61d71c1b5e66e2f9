"""Closed forms beside models that transformers builds from the same values, without weights."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from verl.utils.flops_counter import _estimate_qwen2_flops

from recipe.base.errors import UserError
from recipe.estimate.shapes import KNOWN, Shape, shape_of

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SMALL_ONES = {
    f"{kind}, tied {tied}": SMALL | {"model_type": kind, "tie_word_embeddings": tied} | more
    for kind, more in (("qwen2", {}), ("qwen3", {"head_dim": 32}))
    for tied in (False, True)
}


def huggingface(values):
    return AutoConfig.for_model(**values)


@pytest.mark.parametrize("values", [*KNOWN.values(), *SMALL_ONES.values()])
def test_the_parameters_are_those_of_the_model(values):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(huggingface(values))
    shape = Shape.of(values)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.layer_parameters == sum(p.numel() for p in model.model.layers[0].parameters())
    assert shape.embedding_parameters == model.get_input_embeddings().weight.numel()


def test_the_known_models_have_their_published_numbers_of_parameters():
    found = {name: round(Shape.of(values).parameters / 1e9, 2) for name, values in KNOWN.items()}
    assert found == {"Qwen/Qwen2.5-Math-7B": 7.62, "Qwen/Qwen3-1.7B": 1.72}


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("Qwen/Qwen2.5-Math-7B", 2 * 28 * 4 * 128 * 2),
        ("Qwen/Qwen3-1.7B", 2 * 28 * 8 * 128 * 2),
    ],
)
def test_a_token_of_the_kv_cache_is_two_bytes_a_number(name, by_hand):
    assert Shape.of(KNOWN[name]).kv_bytes_per_token == by_hand


@pytest.mark.parametrize("values", KNOWN.values())
def test_operations_are_those_verl_counts_without_the_embedding_looked_up(values):
    lengths = [100, 700, 1200]
    shape, tokens = Shape.of(values), sum(lengths)
    counted = _estimate_qwen2_flops(huggingface(values), tokens, lengths, delta_time=1) * 1e12
    counted -= 6 * tokens * shape.embedding_parameters
    ours = 3 * shape.forward_operations(tokens, sum(x * x for x in lengths))
    # verl leaves norms and biases out.
    assert ours == pytest.approx(counted, rel=1e-4)


def test_a_local_folder_says_its_shape(composed, tmp_path):
    values = SMALL_ONES["qwen3, tied True"]
    config = composed(f"actor_rollout_ref.model.path={tmp_path}")
    with pytest.raises(UserError, match="shape is not known here"):
        shape_of(config)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert shape_of(config) == Shape.of(values)
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "llama"}))
    with pytest.raises(UserError, match="of the model type llama"):
        shape_of(config)
