"""Work out from the model's shape whether an experiment fits into the memory of its GPUs.

    python -m recipe.memory +experiment=qwen25_math_7b_polaris [cluster=gpu8x2] [KEY=VALUE...]

Two phases share a GPU. In the update vLLM sleeps, and the trainer has what `update_bytes` counts.
In the rollout vLLM has `gpu_memory_utilization` of the GPU beside the trainer's shards. All parts
are upper bounds, and `estimate.reserved_gib` stands for the rest. Nothing here is measured.
"""

from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.estimate.shapes import Shape, shape_of

GIB = 2**30
# With fused kernels verl computes the log-probs of this many tokens at once.
FUSED_CHUNK = 512


class Memory(NamedTuple):
    """Bytes on one GPU by part, and the size of vLLM's KV cache."""

    update: dict[str, float]
    """The parts of the trainer during an update."""
    rollout: dict[str, float]
    """The parts of the trainer and vLLM while responses are sampled."""
    kv_tokens: int
    """Tokens that one vLLM server's KV cache holds."""
    full_sequences: int
    """Sequences of prompt and response at their limits among them."""
    problems: list[str]
    """Reasons why it does not fit; empty if it fits."""


def memory(config: DictConfig) -> Memory:
    """Work out the memory of one GPU of `config`.

    Raises:
        UserError: the model's shape is not known, or micro-batches have no token budget.
    """
    shape, limit = shape_of(config), config.estimate.gpu_gib * GIB
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    if not actor.use_dynamic_bsz or config.trainer.device == "cpu":
        raise UserError(
            "the estimate is for GPUs and for micro-batches with a budget of tokens. Choose "
            "cluster=gpu8 or another of GPUs, and actor_rollout_ref.actor.use_dynamic_bsz=true."
        )
    longest = config.data.max_prompt_length + config.data.max_response_length
    vllm = rollout.gpu_memory_utilization * limit
    kv_tokens = int(max(0, kv_cache_bytes(config, shape)) / kv_bytes_per_gpu(config, shape))
    reserved = {"reserved": config.estimate.reserved_gib * GIB}
    found = Memory(
        update_bytes(config, shape) | reserved,
        resident_bytes(config, shape) | {"vLLM": vllm} | reserved,
        kv_tokens,
        kv_tokens // longest,
        [],
    )
    problems = [
        f"the {phase} needs {sum(parts.values()) / GIB:.1f} GiB, of which "
        f"{_largest(parts)}, but a GPU has {config.estimate.gpu_gib}; {remedy}"
        for phase, parts, remedy in (
            (
                "update",
                found.update,
                "use more GPUs, lower actor.ppo_max_token_len_per_gpu, or set "
                "actor_rollout_ref.model.use_fused_kernels=true",
            ),
            ("rollout", found.rollout, "lower rollout.gpu_memory_utilization, or use more GPUs"),
        )
        if sum(parts.values()) > limit
    ]
    if not found.full_sequences:
        problems.append(
            f"vLLM's KV cache holds {kv_tokens} tokens, but a prompt and response may have "
            f"{longest}; raise rollout.gpu_memory_utilization or rollout.tensor_model_parallel_size"
        )
    return found._replace(problems=problems)


def shard_count(config: DictConfig) -> int:
    """Return the number of GPUs over which FSDP2 shards a copy of the trainer's state."""
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    size = config.actor_rollout_ref.actor.fsdp_config.fsdp_size
    return size if 0 < size < ranks else ranks


def update_bytes(config: DictConfig, shape: Shape) -> dict[str, float]:
    """Return the trainer's parts at the peak of an update.

    Shards in float32: 4 bytes of parameters, 4 of gradients and 8 of AdamW's moments each. Gathered
    for computing: the embedding or the output layer, whichever FSDP2 holds longest, and two layers
    (one ahead), each with 2 bytes of parameters, 2 of gradients and 4 in the float32 reduction.
    """
    actor = config.actor_rollout_ref.actor
    shard = shape.parameters / shard_count(config)
    tokens = max(
        actor.ppo_max_token_len_per_gpu,
        config.actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu,
    )
    fused = config.actor_rollout_ref.model.use_fused_kernels
    return {
        "parameters": 4 * shard,
        "gradients": 4 * shard,
        "AdamW": 8 * shard,
        "gathered": 8 * (shape.embedding_parameters + 2 * shape.layer_parameters),
        "activations": activation_bytes(shape, tokens),
        "logits": logit_bytes(shape, tokens, fused=fused),
    }


def activation_bytes(shape: Shape, tokens: int) -> float:
    """Return the bytes of each layer's input and of one layer recomputed (gradient checkpointing).

    Per token and in bytes, H, Q, K, I being the widths of hidden state, queries, keys and MLP: a
    layer's input has 2 H; inside a layer each of two norms has 4 H in float32, 4 H normalised and
    2 H out, and attention, MLP and two sums 2 H each (28 H together); queries and the output of
    attention have 2 Q, the rotation of queries and keys 4 Q + 4 K and their norms 8 Q + 8 K, keys
    and values 2 K; the MLP has its gate, its activation, the other half and the product (8 I), and
    gradients of three of them while it runs backward (6 I).
    """
    hidden, query, key = shape.hidden_size, shape.query_size, shape.key_size
    inputs = 2 * hidden * shape.num_hidden_layers
    layer = 28 * hidden + 16 * query + 16 * key + 14 * shape.intermediate_size
    return tokens * (inputs + layer)


def logit_bytes(shape: Shape, tokens: int, *, fused: bool) -> float:
    """Return the bytes of the logits, 10 V a token.

    They are kept in bfloat16, with a float32 copy for the log-softmax and its gradient.

    Fused kernels see `FUSED_CHUNK` tokens at a time, with logits, probabilities, a one-hot row and
    the gradient in float32 (18 V), and add up the output layer's gradient in bfloat16 (4 V H).
    """
    if fused:
        return 18 * shape.vocab_size * min(tokens, FUSED_CHUNK) + 4 * shape.embedding_parameters
    return 10 * shape.vocab_size * tokens


def resident_bytes(config: DictConfig, shape: Shape) -> dict[str, float]:
    """Return the trainer's parts while responses are sampled; gradients are freed.

    New weights reach vLLM through a buffer of `update_weights_bucket_megabytes`, from one matrix at
    a time gathered, and sent as it is, in float32 (4 V H for the embedding).
    """
    shard = shape.parameters / shard_count(config)
    engine = config.actor_rollout_ref.actor.fsdp_config
    bucket = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    return {
        "parameters": 0 if engine.param_offload else 4 * shard,
        "AdamW": 0 if engine.optimizer_offload else 8 * shard,
        "weight sync": bucket * 2**20 + 4 * shape.embedding_parameters,
    }


def kv_bytes_per_gpu(config: DictConfig, shape: Shape) -> float:
    """Return the KV-cache bytes of a token on one GPU; tensor parallelism divides the heads."""
    shared = min(
        config.actor_rollout_ref.rollout.tensor_model_parallel_size, shape.num_key_value_heads
    )
    return shape.kv_bytes_per_token / shared


def kv_cache_bytes(config: DictConfig, shape: Shape) -> float:
    """Return the bytes that vLLM's part of the GPU leaves for the KV cache.

    It loads the weights in bfloat16 and tries a batch of `max_num_batched_tokens` before it takes
    the rest: 2 bytes for each of 4 H + Q + 2 K + 3 I numbers a token, and `max_num_seqs` rows of
    logits in bfloat16 and, twice, in float32.
    """
    rollout = config.actor_rollout_ref.rollout
    parallel = rollout.tensor_model_parallel_size
    token = 4 * shape.hidden_size + shape.query_size + 2 * shape.key_size
    tried = 2 * rollout.max_num_batched_tokens * (token + 3 * shape.intermediate_size)
    rows = 10 * rollout.max_num_seqs * shape.vocab_size
    part = rollout.gpu_memory_utilization * config.estimate.gpu_gib * GIB
    return part - 2 * shape.parameters / parallel - tried - rows


def table(config: DictConfig) -> list[str]:
    """Return a Markdown table of the two phases, part by part."""
    found = memory(config)
    names = [*found.update, *(name for name in found.rollout if name not in found.update)]
    rows = [
        [name, *(f"{parts[name] / GIB:.1f}" if name in parts else "-" for parts in found[:2])]
        for name in names
    ]
    rows.append(["sum", *(f"{sum(parts.values()) / GIB:.1f}" for parts in found[:2])])
    return markdown_table(["GiB on a GPU", "update", "rollout"], rows)


def _largest(parts: dict[str, float]) -> str:
    named = sorted(parts.items(), key=lambda part: -part[1])[:2]
    return " and ".join(f"{name} {size / GIB:.1f}" for name, size in named)
