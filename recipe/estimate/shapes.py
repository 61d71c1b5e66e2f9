"""The shape of a model, and what follows from it without loading its weights."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError

# The paper's models, from their config.json on the Hugging Face hub, which a machine may not reach.
KNOWN: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Math-7B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen3-1.7B": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
}
# A model with one of these settings has experts, of which a token uses a few.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class Shape(NamedTuple):
    """A dense transformer with grouped-query attention and a gated MLP."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    query_size: int
    """Width of all query heads."""
    key_size: int
    """Width of all key heads, and of all value heads."""
    parameters: int
    """All of them; an output layer that is tied to the embedding counts once."""
    layer_parameters: int
    """The parameters of the largest layer."""
    embedding_parameters: int
    """The output layer has as many."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Shape":
        """Return the shape of a model with the values of a config.json.

        Raises:
            UserError: it is no causal language model, or has experts or no gated MLP.
        """
        # transformers takes seconds to import, and `--help` does not need it.
        from transformers import AutoConfig

        return cls.from_config(AutoConfig.for_model(**values))

    @classmethod
    def from_config(cls, config: Any) -> "Shape":
        """Return the shape of a model of transformers, counted on a copy without memory.

        Raises:
            UserError: it is no causal language model, or has experts or no gated MLP.
        """
        import torch
        from transformers import AutoModelForCausalLM

        unlike = [name for name in EXPERTS if getattr(config, name, None)]
        if unlike or not getattr(config, "intermediate_size", None):
            raise UserError(
                f"a model of the type {config.model_type} has "
                f"{unlike[0] if unlike else 'no intermediate_size'}, but memory and cost are "
                f"worked out for dense models with a gated MLP. Choose one of these."
            )
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except ValueError as error:
            raise UserError(
                f"a model of the type {config.model_type} is no causal language model: {error}"
            ) from None
        layers = next(
            part
            for part in model.modules()
            if isinstance(part, torch.nn.ModuleList) and len(part) == config.num_hidden_layers
        )
        heads = config.num_attention_heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_key_value_heads=key_heads,
            query_size=heads * head_dim,
            key_size=key_heads * head_dim,
            parameters=num_parameters(model),
            layer_parameters=max(map(num_parameters, layers)),
            embedding_parameters=num_parameters(model.get_input_embeddings()),
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Return the bytes of a key and a value in every layer, 2 bytes a number."""
        return 2 * self.num_hidden_layers * self.key_size * 2

    def forward_operations(self, num_tokens: float, sum_squared_lengths: float) -> float:
        """Return the operations of a forward pass.

        Two for each token and parameter of a matrix, two for each query, key and head width.

        A causal query sees half of the keys, once for the scores and once for the values.
        """
        matrices = self.num_hidden_layers * self.layer_parameters + self.embedding_parameters
        attention = 2 * self.num_hidden_layers * self.query_size * sum_squared_lengths
        return 2 * matrices * num_tokens + attention


def num_parameters(module: Any) -> int:
    """Return the number of parameters of a torch module."""
    return sum(parameter.numel() for parameter in module.parameters())


def shape_of(config: DictConfig) -> Shape:
    """Return the shape of `actor_rollout_ref.model.path`.

    It is a known model, a folder with a config.json, or a model that transformers finds on the hub.

    Raises:
        UserError: it is none of these, or no dense model with a gated MLP.
    """
    path = str(config.actor_rollout_ref.model.path)
    if path in KNOWN:
        return known_shape(path)
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(str(Path(path).expanduser()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"actor_rollout_ref.model.path is {path}, whose shape is not known here. Known are "
            f"{', '.join(KNOWN)}; another model needs a local folder with its config.json, or the "
            f"Hugging Face hub ({str(error).splitlines()[0]})."
        ) from None
    return Shape.from_config(found)


@cache
def known_shape(path: str) -> Shape:
    """Return the shape of one of `KNOWN`."""
    return Shape.of(KNOWN[path])


def check_positions(config: DictConfig) -> None:
    """Check that a known model has positions for a prompt and a response at their limits.

    Raises:
        UserError: it has fewer.
    """
    path, data = config.actor_rollout_ref.model.path, config.data
    if path not in KNOWN:
        return
    positions = KNOWN[path]["max_position_embeddings"]
    if data.max_prompt_length + data.max_response_length > positions:
        raise UserError(
            f"data.max_prompt_length + data.max_response_length is {data.max_prompt_length} + "
            f"{data.max_response_length}, but {path} has {positions} positions. Lower one of them."
        )
