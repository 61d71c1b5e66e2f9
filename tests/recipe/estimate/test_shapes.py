"""Shapes beside closed forms, worked out by hand for Qwen2 and Qwen3."""

import json

import pytest
from transformers import AutoConfig
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


def closed_form(values):
    """Return the parameters of the model, of a layer and of the embedding, by formula.

    A layer has 2 H Q + 2 H K of attention, 3 H I of the MLP and two norms; qwen2 has biases on
    query, key and value; qwen3 has norms on query and key.
    """
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    head_dim = values.get("head_dim", hidden // heads)
    query, key = heads * head_dim, values["num_key_value_heads"] * head_dim
    own = {"qwen2": query + 2 * key, "qwen3": 2 * head_dim}[values["model_type"]]
    matrices = 2 * hidden * (query + key) + 3 * hidden * values["intermediate_size"]
    layer, embedding = matrices + 2 * hidden + own, values["vocab_size"] * hidden
    copies = 1 if values["tie_word_embeddings"] else 2
    return values["num_hidden_layers"] * layer + copies * embedding + hidden, layer, embedding


@pytest.mark.parametrize("values", [*KNOWN.values(), *SMALL_ONES.values()])
def test_the_parameters_are_those_of_the_closed_form(values):
    shape = Shape.of(values)
    counted = shape.parameters, shape.layer_parameters, shape.embedding_parameters
    assert counted == closed_form(values)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("Qwen/Qwen2.5-Math-7B", (7_615_616_512, 233_057_792, 544_997_376)),
        ("Qwen/Qwen3-1.7B", (1_720_574_976, 50_336_000, 311_164_928)),
    ],
)
def test_the_papers_models_have_these_parameters(name, counts):
    shape = Shape.of(KNOWN[name])
    assert (shape.parameters, shape.layer_parameters, shape.embedding_parameters) == counts


def test_another_family_is_counted_too():
    """A Llama has neither biases nor norms on query and key: 2 H Q + 2 H K + 3 H I + 2 H."""
    shape = Shape.of(SMALL | {"model_type": "llama", "tie_word_embeddings": False})
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160 + 2 * 64
    assert shape.layer_parameters == layer
    assert shape.parameters == 3 * layer + 2 * 96 * 64 + 64


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "gpt2"}, "no intermediate_size"),
        ({"model_type": "qwen3_moe"}, "has num_experts"),
        ({"model_type": "t5", "intermediate_size": 8}, "is no causal language model"),
    ],
)
def test_a_model_that_the_formulas_are_not_for_is_refused(values, reason):
    with pytest.raises(UserError, match=reason):
        Shape.of(values)


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
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "none"}))
    with pytest.raises(UserError, match="shape is not known here"):
        shape_of(config)
