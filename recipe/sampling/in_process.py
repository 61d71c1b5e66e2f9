"""Sample with transformers in this process: enough for the small model, and nothing to start."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from recipe.base.seeds import request_seed
from recipe.sampling.scored import Scored, Scorer, does_not_load


class Sampler:
    """Sample with the model of a config."""

    at_once = 16
    """Prompts that are sampled together, from one seed."""

    def __init__(self, config: DictConfig) -> None:
        """Load the model and its tokenizer.

        Args:
            config: a resolved config of the recipe.

        Raises:
            UserError: the model does not load.
        """
        self.limit: int = config.data.max_response_length
        self.scorer = Scorer(config)
        path = config.actor_rollout_ref.model.path
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise does_not_load(path, error) from None

    @torch.no_grad()
    def sample(self, rows: Sequence[Mapping[str, Any]], group_size: int) -> list[Scored]:
        """Return `group_size` responses to each row, at temperature 1."""
        pad = self.scorer.tokenizer.pad_token_id
        prompts = [torch.tensor(self.scorer.encode(row)) for row in rows]
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
            score = self.scorer.score(rows[row], token)
            sampled.append(Scored(prompts[row], token, score))
        return sampled

    def sample_groups(
        self,
        rows: Mapping[int, Mapping[str, Any]],
        group_size: int,
        seed: int,
        keep: Callable[[int, list[Scored]], None],
    ) -> None:
        """Sample a group for each row; `keep` gets its key and its responses.

        Args:
            rows: the prompts by number, complete blocks of `at_once`.
            group_size: responses of each prompt, G.
            seed: of sampling, with the first number of each block.
            keep: called once for each row.
        """
        numbers = iter(rows)
        while block := list(islice(numbers, self.at_once)):
            torch.manual_seed(request_seed(seed, block[0]))
            found = iter(self.sample([rows[number] for number in block], group_size))
            for number in block:
                keep(number, list(islice(found, group_size)))
