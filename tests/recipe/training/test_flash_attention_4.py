"""attention=flash_attention_4, as far as a machine without a GPU can tell."""

import inspect

import pytest
import torch
from installed import CUDA_SET
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers import modeling_flash_attention_utils as flash_utils
from transformers.integrations import flash_attention
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils.attention_utils import pad_input, unpad_input

pytestmark = CUDA_SET
LENGTHS = [5, 3, 7]


def model(attention: str):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def test_transformers_finds_the_package_and_misses_a_gpu_alone():
    with pytest.raises(ImportError, match="FlashAttention4 is not available on CPU"):
        model("flash_attention_4")


def test_packed_rows_reach_its_function_with_arguments_that_it_declares(monkeypatch):
    """The function is replaced by torch's, under the same signature; rows must not mix."""
    import flash_attn.cute

    signature = inspect.signature(flash_attn.cute.flash_attn_varlen_func)
    calls = []

    def in_torch(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        calls.append(given)
        assert given["cu_seqlens_q"].diff().tolist() == LENGTHS
        rows = [
            torch.nn.functional.scaled_dot_product_attention(
                *(part.transpose(0, 1) for part in row),
                is_causal=given["causal"],
                scale=given["softmax_scale"],
                enable_gqa=True,
            ).transpose(0, 1)
            for row in zip(*(given[name].split(LENGTHS) for name in "qkv"), strict=True)
        ]
        return torch.cat(rows)

    in_torch.__signature__ = signature
    monkeypatch.setattr(flash_attn.cute, "flash_attn_varlen_func", in_torch)
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
    # verl replaces it for runs without padding; the test leaves the module as it was.
    forward = flash_attention._flash_attention_forward
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", forward)

    packed, alone = model("sdpa"), model("sdpa")
    apply_monkey_patch(packed, use_remove_padding=True, ulysses_sp_size=1)
    # transformers would ask for a GPU.
    packed.config._attn_implementation = "flash_attention_4"
    tokens = torch.randint(32, (1, sum(LENGTHS)))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    found = packed(input_ids=tokens, position_ids=positions, use_cache=False).logits
    assert len(calls) == 2
    rows = [alone(input_ids=row).logits for row in tokens.split(LENGTHS, dim=1)]
    torch.testing.assert_close(found, torch.cat(rows, dim=1), atol=2e-2, rtol=2e-2)


def test_verl_takes_padding_off_and_adds_it_without_flash_attn():
    """Both packages are imported as flash_attn, and flash-attn-4 has no such functions."""
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    rows = torch.arange(6.0).view(2, 3, 1)
    flat, indices, offsets, longest, _ = unpad_input(rows, mask)
    assert (flat.flatten().tolist(), offsets.tolist(), longest) == ([0, 1, 4, 5], [0, 2, 4], 2)
    assert torch.equal(pad_input(flat, indices, 2, 3), rows * mask[:, :, None])
