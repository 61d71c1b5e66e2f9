"""Encode prompts, and score responses, as training does."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import AutoTokenizer

from recipe.base.errors import UserError
from reward.score import compute_score


class Scored(NamedTuple):
    """Represent a sampled response with its score."""

    prompt: Tensor
    """Token ids of the prompt."""
    token: Tensor
    """Token ids of the response, the end of turn included."""
    score: float


class Scorer:
    """Hold what training makes of prompts and responses: its tokenizer and its reward."""

    def __init__(self, config: DictConfig) -> None:
        """Load the tokenizer.

        Args:
            config: a resolved config of the recipe.

        Raises:
            UserError: the model's folder holds none.
        """
        self.settings = cast(
            dict[str, Any],
            OmegaConf.to_container(config.reward.custom_reward_function.reward_kwargs),
        )
        path = config.actor_rollout_ref.model.path
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise does_not_load(path, error) from None

    def encode(self, row: Mapping[str, Any]) -> list[int]:
        """Return the token ids of a row's prompt."""
        text = self.tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer.encode(text)

    def score(self, row: Mapping[str, Any], token: Tensor) -> float:
        """Return the score of a response to a row's prompt."""
        return compute_score(
            row["data_source"],
            self.tokenizer.decode(token, skip_special_tokens=True),
            row["reward_model"]["ground_truth"],
            row["extra_info"],
            **self.settings,
        )["score"]


def does_not_load(path: str, error: Exception) -> UserError:
    """Return the error of a model that transformers refuses."""
    return UserError(
        f"the model {path} does not load: {str(error).splitlines()[0]} Give a folder that "
        f"transformers loads, such as one of scripts.export."
    )
