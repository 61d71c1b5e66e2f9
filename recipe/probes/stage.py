"""Provide every probe with responses of the small model and verl's engine to measure on.

The engine is the one that trains: verl's actor worker with FSDP2 in float32, with the measurements
and the weighted loss that the trainer installs. It is the only rank. Axes: `_N` responses,
`_P` groups, `_X` all parameters in a row.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.base.errors import UserError
from recipe.maths.rules import RULES, with_limit
from recipe.objectives.losses.weighted import WEIGHT_COLUMN, weighted_ppo_loss
from recipe.training.worker import adamw_changes, local, measured
from reward.score import compute_score

GROUP_SIZE = 8
# Prompts whose responses are sampled at a time.
PROMPTS_AT_ONCE = 16
# An exponent of the rule lambda far enough from 0, where it is `token`, to be told from it.
EXPONENT = -2.0
NO_CLIP = 1e9
Report = Callable[[str], None]


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
        """Return A_i of these scores."""
        return advantages(self.score_N, self.group_N)

    def of(self, groups: Iterable[int]) -> "SampledGroups":
        """Return the responses of these groups, numbered anew in this order."""
        rows_P = [(self.group_N == group).nonzero()[:, 0] for group in groups]
        rows = torch.cat(rows_P)
        return SampledGroups(
            [self.prompt_N[row] for row in rows],
            [self.token_N[row] for row in rows],
            self.score_N[rows],
            torch.arange(len(rows_P)).repeat_interleave(torch.tensor([len(r) for r in rows_P])),
        )

    def mixed(self) -> list[int]:
        """Return the groups that have correct and incorrect responses."""
        correct_P = torch.bincount(self.group_N, weights=(self.score_N > 0).double())
        size_P = torch.bincount(self.group_N)
        return ((correct_P > 0) & (correct_P < size_P)).nonzero()[:, 0].tolist()


def advantages(score_N: Tensor, group_N: Tensor) -> Tensor:
    """Return A_i = r_i - mean of the group's r, as in arXiv:2601.05002, by verl's GRPO."""
    one_N1 = torch.ones(len(score_N), 1)
    found_N1, _ = compute_grpo_outcome_advantage(
        score_N.double()[:, None], one_N1, group_N.numpy(), norm_adv_by_std_in_grpo=False
    )
    return found_N1[:, 0]


def rules(limit: float) -> dict[str, Callable[..., Tensor]]:
    """Return every aggregation rule at this length limit, and `lambda` at `EXPONENT`."""
    return with_limit(limit) | {"lambda": partial(RULES["lambda"], exponent=EXPONENT)}


def weights(responses: SampledGroups, limit: float) -> dict[str, Tensor]:
    """Return weight_N under each rule, from the full lengths of the responses."""
    columns = responses.length_N, responses.advantage_N, responses.group_N
    return {name: rule(*columns) for name, rule in rules(limit).items()}


def columns(
    responses: SampledGroups,
    advantage_N: Tensor,
    old_log_prob_N: list[Tensor],
    trained_N: Tensor | None = None,
) -> TensorDict:
    """Return a mini-batch as verl's trainer sends it to its workers.

    Args:
        responses: its rows.
        advantage_N: one advantage per response.
        old_log_prob_N: of its tokens, from `Engine.log_probs`.
        trained_N: how many tokens of each response are trained, from its first; all by default.
    """
    trained_N = responses.length_N if trained_N is None else trained_N
    rows = []
    for i, (prompt, token) in enumerate(zip(responses.prompt_N, responses.token_N, strict=True)):
        mask = (torch.arange(len(token)) < trained_N[i]).long()
        rows.append(
            {
                "input_ids": torch.cat([prompt, token]),
                "position_ids": torch.arange(len(prompt) + len(token)),
                "prompts": prompt,
                "responses": token,
                "response_mask": mask,
                "loss_mask": mask,
                "old_log_probs": old_log_prob_N[i],
                "advantages": advantage_N[i].float() * mask,
            }
        )
    nested = {
        key: torch.nested.as_nested_tensor([row[key] for row in rows], layout=torch.jagged)
        for key in rows[0]
    }
    return TensorDict(nested, batch_size=len(rows))


class Engine:
    """Run verl's actor worker as the only rank, with its own model and optimizer."""

    def __init__(self, config: DictConfig, **actor: Any) -> None:
        """Load the model.

        Args:
            config: a resolved config of the recipe.
            actor: keys of `actor_rollout_ref.actor` that this engine has otherwise.
        """
        role = cast(DictConfig, OmegaConf.merge(config.actor_rollout_ref, {"actor": actor}))
        self.worker = cast(Any, measured(ActorRolloutRefWorker)(config=role, role="actor"))
        self.worker.init_model()
        loss_config = omega_conf_to_dataclass(role.actor)
        self.worker.set_loss_fn(partial(weighted_ppo_loss, config=loss_config))
        self.optimizer = self.worker.actor.engine.optimizer
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.gradient_X = torch.empty(0)
        """Gradient of the last update, after clipping."""
        self.optimizer.register_step_pre_hook(self._keep_gradient)

    def _keep_gradient(self, *_: Any) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.gradient_X = torch.cat([local(p.grad).flatten() for p in parameters])

    def update(self, data: TensorDict, weight_N: Tensor) -> dict[str, float]:
        """Make one update on a mini-batch, as verl's trainer does; return its metrics."""
        data = self._asked(data)
        data[WEIGHT_COLUMN] = weight_N.float()
        tu.assign_non_tensor(
            data, mini_batch_size=len(data), epochs=1, seed=0, dataloader_kwargs={"shuffle": False}
        )
        metrics = tu.get(self.worker.update_actor(data), "metrics")
        return {key: float(value) for key, [value] in metrics.items()}

    def gradient(self, data: TensorDict, weight_N: Tensor) -> Tensor:
        """Return the gradient of the loss by all parameters, in float64."""
        self.update(data, weight_N)
        return self.gradient_X.double()

    def change(self) -> Tensor:
        """Return the change of AdamW's last step, from its state: parameters would round it."""
        changes = adamw_changes(self.optimizer, self.lrs)
        return torch.cat([change.flatten() for change, _ in changes]).double()

    def log_probs(self, responses: SampledGroups) -> list[Tensor]:
        """Return the log-prob of each token of the responses under the current parameters."""
        nothing = [torch.zeros(len(token)) for token in responses.token_N]
        data = self._asked(columns(responses, torch.zeros(len(nothing)), nothing))
        tu.assign_non_tensor(data, compute_loss=False)
        found = self.worker.compute_log_prob(data)["log_probs"].unbind(0)
        # Model outputs cover prompt and response, shifted left by one token.
        return [
            row[-len(token) - 1 : -1] for row, token in zip(found, responses.token_N, strict=True)
        ]

    def _asked(self, data: TensorDict) -> TensorDict:
        data = data.copy()
        tu.assign_non_tensor(
            data, global_batch_size=len(data), temperature=1.0, calculate_entropy=False
        )
        return data


class Stage:
    """Hold the small model and its task."""

    def __init__(self, config: DictConfig, say: Report) -> None:
        """Load the model for sampling.

        Args:
            config: a resolved config of the recipe.
            say: shows progress.
        """
        self.config, self.say = config, say
        self.limit = config.data.max_response_length
        folder = config.actor_rollout_ref.model.path
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder)
        self.rows = pq.read_table(config.data.train_files).to_pylist()

    def engine(self, **actor: Any) -> Engine:
        """Return an engine at the model's first parameters, with its own keys of the actor."""
        return Engine(self.config, **actor)

    def sample(self, num_groups: int) -> SampledGroups:
        """Sample groups of responses to the first training prompts, at temperature 1."""
        torch.manual_seed(self.config.seed)
        found = []
        for begin in range(0, num_groups, PROMPTS_AT_ONCE):
            rows = self.rows[begin : min(begin + PROMPTS_AT_ONCE, num_groups)]
            found += self._sample(rows)
            self.say(f"sampled {begin + len(rows)} of {num_groups} groups")
        prompts, tokens, scores = zip(*found, strict=True)
        group_N = torch.arange(num_groups).repeat_interleave(GROUP_SIZE)
        return SampledGroups(list(prompts), list(tokens), torch.tensor(scores), group_N)

    def mixed_groups(self, num_sampled: int, num_needed: int) -> SampledGroups:
        """Return the first sampled groups with correct and incorrect responses.

        Raises:
            UserError: there are fewer than `num_needed`.
        """
        sampled = self.sample(num_sampled)
        mixed = sampled.mixed()
        if len(mixed) < num_needed:
            raise UserError(
                f"{len(mixed)} of {num_sampled} groups have correct and incorrect responses, and "
                f"{num_needed} are needed. Try another --seed."
            )
        return sampled.of(mixed[:num_needed])

    @torch.no_grad()
    def _sample(self, rows: list[Mapping[str, Any]]) -> Iterable[tuple[Tensor, Tensor, float]]:
        """Yield prompt, response and score, `GROUP_SIZE` times for each row."""
        pad = self.tokenizer.pad_token_id
        prompts = [torch.tensor(self._encode(row)) for row in rows]
        padded = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
        found = self.model.generate(
            input_ids=padded,
            attention_mask=(padded != pad).long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=self.limit,
            num_return_sequences=GROUP_SIZE,
        )
        for i, response in enumerate(found[:, padded.shape[1] :]):
            token = response[response != pad]
            yield prompts[i // GROUP_SIZE], token, self._score(rows[i // GROUP_SIZE], token)

    def _encode(self, row: Mapping[str, Any]) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer.encode(text)

    def _score(self, row: Mapping[str, Any], token: Tensor) -> float:
        settings = self.config.reward.custom_reward_function.reward_kwargs
        given = cast(dict[str, Any], OmegaConf.to_container(settings))
        return compute_score(
            row["data_source"],
            self.tokenizer.decode(token, skip_special_tokens=True),
            row["reward_model"]["ground_truth"],
            row["extra_info"],
            **given,
        )["score"]
