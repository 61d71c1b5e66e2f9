"""The shape of a Qwen2 or Qwen3 model, and what follows from it without loading the model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recipe.base.errors import UserError

# From the models' config.json on the Hugging Face hub; what stands for all of a kind is below.
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


@dataclass(frozen=True)
class Shape:
    """A dense transformer with grouped-query attention and a gated MLP."""

    model_type: str
    """`qwen2` has biases on query, key and value; `qwen3` norms on query and key."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    head_dim: int

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Shape":
        """From the values of a config.json."""
        head_dim = given.get("head_dim") or given["hidden_size"] // given["num_attention_heads"]
        return cls(
            **{key: given[key] for key in cls.__annotations__ if key != "head_dim"},
            head_dim=head_dim,
        )

    @property
    def query_size(self) -> int:
        """Width of all query heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """2 H Q + 2 H K of attention, 3 H I of the MLP, two norms, and the kind's own."""
        hidden, query, key = self.hidden_size, self.query_size, self.key_size
        own = {"qwen2": query + 2 * key, "qwen3": 2 * self.head_dim}[self.model_type]
        matrices = 2 * hidden * query + 2 * hidden * key + 3 * hidden * self.intermediate_size
        return matrices + 2 * hidden + own

    @property
    def embedding_parameters(self) -> int:
        """V H; the output layer has as many, which are the same ones if they are tied."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """Layers, embedding, output layer unless tied, and the last norm."""
        embeddings = self.embedding_parameters * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * self.layer_parameters + embeddings + self.hidden_size

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value per layer, 2 bytes a number."""
        return 2 * self.num_hidden_layers * self.key_size * 2

    def forward_operations(self, num_tokens: float, sum_squared_lengths: float) -> float:
        """2 per token and parameter of a matrix, and 2 per query, key and head width in attention.

        A causal query sees half of the keys, once for the scores and once for the values.
        """
        matrices = self.num_hidden_layers * self.layer_parameters + self.embedding_parameters
        attention = 2 * self.num_hidden_layers * self.query_size * sum_squared_lengths
        return 2 * matrices * num_tokens + attention


def shape_of(config: DictConfig) -> Shape:
    """The shape of `actor_rollout_ref.model.path`: a known model, or a folder with a config.json.

    Raises:
        UserError: it is neither, or no dense Qwen2 or Qwen3.
    """
    path = str(config.actor_rollout_ref.model.path)
    file = Path(path).expanduser() / "config.json"
    if path not in KNOWN and not file.is_file():
        raise UserError(
            f"actor_rollout_ref.model.path is {path}, whose shape is not known here. Known are "
            f"{', '.join(KNOWN)}; another model needs a local folder with its config.json."
        )
    given = KNOWN.get(path) or json.loads(file.read_text())
    if given.get("model_type") not in ("qwen2", "qwen3"):
        raise UserError(
            f"{path} is of the model type {given.get('model_type')}, but memory and cost are "
            f"worked out for qwen2 and qwen3. Choose one of these."
        )
    return Shape.of(given)


def check_positions(config: DictConfig) -> None:
    """A prompt and its response, both at their limits, have positions in a known model.

    Raises:
        UserError: they have not.
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
