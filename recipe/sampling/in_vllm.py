"""Sample groups with one vLLM engine, as fast as a GPU allows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from recipe.base.seeds import request_seed
from recipe.sampling.scored import Scored, Scorer
from recipe.sampling.vllm_engine import (
    Request,
    SampledResponse,
    engine_arguments,
    sample,
    vllm_may_run,
)


class VllmSampler:
    """Sample with the model of a config; the engine lives as long as a call."""

    at_once = 1
    """Every response has a seed of its own."""

    def __init__(self, config: DictConfig, log: Path) -> None:
        """Load the tokenizer.

        Args:
            config: a resolved config of the recipe.
            log: gets vLLM's output.

        Raises:
            UserError: the model's folder holds no tokenizer.
        """
        self.limit: int = config.data.max_response_length
        self.scorer = Scorer(config)
        self.model = Path(config.actor_rollout_ref.model.path)
        self.rollout = config.actor_rollout_ref.rollout
        self.log = log

    def sample_groups(
        self,
        rows: Mapping[int, Mapping[str, Any]],
        group_size: int,
        seed: int,
        keep: Callable[[int, list[Scored]], None],
    ) -> None:
        """Sample a group for each row at temperature 1; `keep` gets its key and its responses.

        Args:
            rows: the prompts by number.
            group_size: responses of each prompt, G.
            seed: of sampling, with the numbers of the row and the response.
            keep: called once for each row, in the order in which groups end.

        Raises:
            UserError: the engine failed.
        """
        prompts = {number: self.scorer.encode(row) for number, row in rows.items()}
        groups: dict[int, dict[int, Scored]] = {number: {} for number in rows}

        def keep_one(request: Request, response: SampledResponse) -> None:
            number, place = map(int, request.key.split("/"))
            token = torch.tensor(response.tokens)
            score = self.scorer.score(rows[number], token)
            group = groups[number]
            group[place] = Scored(torch.tensor(request.tokens), token, score)
            if len(group) == group_size:
                keep(number, [group[one] for one in range(group_size)])

        requests = (
            Request(f"{number}/{one}", tokens, request_seed(seed, number, one), 1, 1, self.limit)
            for number, tokens in prompts.items()
            for one in range(group_size)
        )
        longest = max(map(len, prompts.values())) + self.limit
        arguments = engine_arguments(
            self.model,
            longest,
            self.rollout.gpu_memory_utilization,
            self.rollout.tensor_model_parallel_size,
        )
        with vllm_may_run(self.log):
            sample(arguments | {"dtype": self.rollout.dtype}, requests, keep_one)
