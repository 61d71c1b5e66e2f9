"""Sample groups of responses with transformers, and score them as training does.

Axes: `_N` responses, `_P` groups.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.base.errors import UserError
from recipe.maths.estimators import advantages
from reward.score import compute_score


class SampledGroups(NamedTuple):
    """Hold complete groups of sampled responses."""

    prompt_N: list[Tensor]
    """Token ids of the prompt."""
    token_N: list[Tensor]
    """Token ids of the response, the end of turn included."""
    score_N: Tensor
    """The score by the project's grader, 1 or -1."""
    group_N: Tensor
    """Numbered from 0."""

    @property
    def length_N(self) -> Tensor:
        """Return the number of tokens of each response."""
        return torch.tensor([len(token) for token in self.token_N])

    @property
    def advantage_N(self) -> Tensor:
        """Return A_i = r_i - mean of the group's r, as in arXiv:2601.05002."""
        return advantages(self.score_N, self.group_N, "none")

    def of(self, groups: Iterable[int]) -> "SampledGroups":
        """Return the responses of these groups, numbered anew in this order."""
        rows_P = [(self.group_N == group).nonzero()[:, 0] for group in groups]
        size_P = torch.tensor([len(rows) for rows in rows_P], dtype=torch.long)
        rows = torch.cat([*rows_P, size_P[:0]])
        return SampledGroups(
            [self.prompt_N[row] for row in rows],
            [self.token_N[row] for row in rows],
            self.score_N[rows],
            torch.arange(len(rows_P)).repeat_interleave(size_P),
        )

    def mixed(self) -> list[int]:
        """Return the groups that have correct and incorrect responses."""
        correct_P = torch.bincount(self.group_N, weights=(self.score_N > 0).double())
        size_P = torch.bincount(self.group_N)
        return ((correct_P > 0) & (correct_P < size_P)).nonzero()[:, 0].tolist()


class Sampler:
    """Sample with the model of a config."""

    def __init__(self, config: DictConfig) -> None:
        """Load the model and its tokenizer.

        Args:
            config: a resolved config of the recipe.

        Raises:
            UserError: the model does not load.
        """
        self.limit: int = config.data.max_response_length
        self.reward_settings = cast(
            dict[str, Any],
            OmegaConf.to_container(config.reward.custom_reward_function.reward_kwargs),
        )
        path = config.actor_rollout_ref.model.path
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path)
            self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the model {path} does not load: {str(error).splitlines()[0]} Give a folder that "
                f"transformers loads, such as one of scripts.export."
            ) from None

    @torch.no_grad()
    def sample(
        self, rows: Sequence[Mapping[str, Any]], group_size: int
    ) -> list[tuple[Tensor, Tensor, float]]:
        """Return prompt, response and score, `group_size` times for each row, at temperature 1."""
        pad = self.tokenizer.pad_token_id
        prompts = [torch.tensor(self._encode(row)) for row in rows]
        padded = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
        found = self.model.generate(
            input_ids=padded.to(self.model.device),
            attention_mask=(padded != pad).long().to(self.model.device),
            do_sample=True,
            top_k=0,
            max_new_tokens=self.limit,
            num_return_sequences=group_size,
        ).cpu()
        sampled = []
        for i, response in enumerate(found[:, padded.shape[1] :]):
            row, token = i // group_size, response[response != pad]
            sampled.append((prompts[row], token, self._score(rows[row], token)))
        return sampled

    def _encode(self, row: Mapping[str, Any]) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer.encode(text)

    def _score(self, row: Mapping[str, Any], token: Tensor) -> float:
        return compute_score(
            row["data_source"],
            self.tokenizer.decode(token, skip_special_tokens=True),
            row["reward_model"]["ground_truth"],
            row["extra_info"],
            **self.reward_settings,
        )["score"]
