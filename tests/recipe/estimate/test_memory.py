from copy import deepcopy

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from recipe.base.errors import UserError
from recipe.config.batches import check_micro_batches
from recipe.estimate.memory import GIB, activation_bytes, kv_cache_bytes, logit_bytes, memory, table
from recipe.estimate.shapes import KNOWN, Shape, shape_of

LAYERS = {"qwen2": Qwen2DecoderLayer, "qwen3": Qwen3DecoderLayer}


@pytest.fixture(scope="module")
def composed_cell(composed):
    return composed(experiment="qwen25_math_7b_polaris")


@pytest.fixture
def cell(composed_cell):
    return deepcopy(composed_cell)


def changed(config, **changes):
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


ROLLOUT, ACTOR = "actor_rollout_ref__rollout__", "actor_rollout_ref__actor__"


def test_the_parts_of_a_7b_on_8_gpus_are_those_worked_out_by_hand(cell):
    found = memory(cell)
    # 7,615,616,512 parameters over 8 GPUs.
    assert found.update["parameters"] == found.update["gradients"] == 4 * 951_952_064
    assert found.update["AdamW"] == found.rollout["AdamW"] == 8 * 951_952_064
    # 16,384 tokens x 152,064 logits x 10 bytes.
    assert found.update["logits"] == 24_914_165_760
    assert found.rollout["vLLM"] == pytest.approx(0.6 * 79.1 * GIB)
    assert found.full_sequences == found.kv_tokens // 4096
    # Weights and tokens of the cache fill vLLM's part, but for the batch it tries.
    used = 2 * 7_615_616_512 + found.kv_tokens * 57_344
    assert 0.95 < used / found.rollout["vLLM"] < 1
    assert found.problems == []


@pytest.mark.parametrize("name", KNOWN)
def test_a_layer_keeps_no_more_than_is_counted(name):
    """Saved tensors of one layer in bfloat16, at the model's widths and in a few tokens."""
    values = KNOWN[name]
    config = AutoConfig.for_model(**values, attn_implementation="sdpa")
    layer = LAYERS[values["model_type"]](config, layer_idx=0).bfloat16()
    tokens = 64
    hidden = torch.randn(1, tokens, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    rotation = torch.ones(2, 1, tokens, layer.self_attn.head_dim, dtype=torch.bfloat16)
    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden, position_embeddings=tuple(rotation))
    shape = Shape.of(values)
    inputs = 2 * shape.hidden_size * shape.num_hidden_layers * tokens
    # Beside them are the gradients of the MLP's backward.
    backward = 6 * shape.intermediate_size * tokens
    counted = activation_bytes(shape, tokens) - inputs - backward
    assert 0.6 * counted < sum(kept.values()) <= counted


def test_fused_kernels_hold_logits_of_a_chunk():
    shape = Shape.of(KNOWN["Qwen/Qwen3-1.7B"])
    assert logit_bytes(shape, 32768, fused=True) == logit_bytes(shape, 1024, fused=True)
    assert logit_bytes(shape, 32768, fused=True) < logit_bytes(shape, 4096, fused=False)


def test_more_gpus_share_the_state_and_not_the_activations(cell):
    one, two = memory(cell).update, memory(changed(cell, trainer__nnodes=2)).update
    for part in ("parameters", "gradients", "AdamW"):
        assert two[part] == one[part] / 2
    for part in ("gathered", "activations", "logits"):
        assert two[part] == one[part]


def test_a_shard_group_of_one_node_shares_within_it(cell):
    one = memory(cell)
    two = memory(changed(cell, trainer__nnodes=2, **{ACTOR + "fsdp_config__fsdp_size": 8}))
    assert one == two


def test_tensor_parallel_servers_share_weights_and_heads(cell):
    alone = kv_cache_bytes(cell, shape_of(cell))
    before = memory(cell).kv_tokens
    pair = changed(cell, **{ROLLOUT + "tensor_model_parallel_size": 2})
    assert kv_cache_bytes(pair, shape_of(pair)) == pytest.approx(alone + 7_615_616_512)
    assert memory(pair).kv_tokens > 2 * before


def test_offloading_frees_the_rollout_of_the_state(cell):
    offload = {ACTOR + f"fsdp_config__{x}_offload": True for x in ("param", "optimizer")}
    found = memory(changed(cell, **offload))
    assert found.rollout["parameters"] == found.rollout["AdamW"] == 0
    assert found.update["AdamW"] > 0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trainer__n_gpus_per_node": 1}, "the update needs 159.9 GiB, of which AdamW 56.7"),
        ({ROLLOUT + "gpu_memory_utilization": 0.8}, "the rollout needs 83.9 GiB, of which vLLM"),
        ({ROLLOUT + "gpu_memory_utilization": 0.2}, "KV cache holds 2172 tokens"),
    ],
)
def test_what_does_not_fit_is_said_with_its_reason(cell, changes, problem):
    problems = ". ".join(memory(changed(cell, **changes)).problems)
    assert problem in problems


def test_a_budget_that_the_longest_row_is_above_is_refused(cell):
    with pytest.raises(UserError, match=r"ppo_max_token_len_per_gpu is 4000, .* Use 4096 or more"):
        check_micro_batches(changed(cell, **{ACTOR + "ppo_max_token_len_per_gpu": 4000}))


def test_a_cpu_is_not_estimated(composed):
    with pytest.raises(UserError, match="the estimate is for GPUs"):
        memory(composed("actor_rollout_ref.model.path=Qwen/Qwen3-1.7B"))


def test_the_table_adds_up(cell):
    lines = table(cell)
    columns = [
        [float(line.split("|")[at].replace("-", "0")) for line in lines[2:]] for at in (2, 3)
    ]
    for *parts, total in columns:
        assert sum(parts) == pytest.approx(total, abs=0.05 * len(parts))
