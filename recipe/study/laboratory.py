"""Train the small model in one process, step by step as the live stack does.

transformers samples, and nothing is sent between processes: a step takes a fifth of the live
stack's time, and there is nothing to start. Everything that is studied is the live stack's own:
prompts, reward, verl's GRPO advantage, the objective with its rule, verl's policy loss, its
optimizer. Axes: `_N` responses, `_T` tokens.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config.optimizer import build_optimizer

from recipe.base.errors import UserError
from recipe.base.seeds import request_seed
from recipe.config.settings import Settings
from recipe.maths.responses import Responses
from recipe.maths.within import varies_within
from recipe.objectives.base import Loss
from recipe.sampling.in_process import Sampler
from recipe.sampling.scored import Scored
from recipe.training.responses import SUM_SQUARES, logit_squares

Row = Mapping[str, Any]


class Step(NamedTuple):
    """Hold what one training step measured."""

    correct: float
    """Share of correct responses."""
    length: float
    """Mean length in tokens."""
    length_gap: float | None
    """Mean over mixed groups of incorrect minus correct mean length, over the group's mean."""
    entropy: float
    """Mean over tokens in nats, as the updates saw them."""
    gradient_norm: float
    """Mean over the updates of the step, before clipping."""


class Laboratory:
    """Hold the model and data of one config, and train it again and again."""

    def __init__(self, config: DictConfig) -> None:
        """Load the model and its data.

        Args:
            config: a resolved config of the recipe.

        Raises:
            UserError: the model does not load.
        """
        self.sampler = Sampler(config)
        self.model = self.sampler.model
        self.start = {name: value.clone() for name, value in self.model.state_dict().items()}
        files = (
            Path(config.data.train_files),
            Path(config.data.train_files).with_name("val.parquet"),
        )
        self.rows, self.held_out = (pq.read_table(path).to_pylist() for path in files)

    def train(self, config: DictConfig, prompts: Sequence[Row] = ()) -> Iterator[Step]:
        """Train from the first weights, and yield what each step measured.

        Runs with the same seed have the same prompts, and each step the same sampling seed.

        Args:
            config: a resolved config with this laboratory's model and data.
            prompts: rows in the order of training; by default all rows, shuffled by the seed.

        Raises:
            UserError: the config asks for what only the live stack does.
        """
        check(config)
        self.model.load_state_dict(self.start)
        actor, optim = config.actor_rollout_ref.actor, config.actor_rollout_ref.actor.optim
        objective = Settings.of(config).begin(config)
        loss = objective.loss()
        optimizer = build_optimizer(self.model.parameters(), omega_conf_to_dataclass(optim))
        if not prompts:
            prompts = list(self.rows)
            random.Random(config.seed).shuffle(prompts)
        num = config.data.train_batch_size
        for step in range(config.trainer.total_training_steps):
            chosen = [prompts[i % len(prompts)] for i in range(step * num, (step + 1) * num)]
            torch.manual_seed(request_seed(config.seed, step))
            sampled = self.sampler.sample(chosen, config.actor_rollout_ref.rollout.n)
            data, rows = as_batch(sampled, config)
            if objective.needs("square_N"):
                rows = rows._replace(square_N=squares(self.model, data))
            made = objective.step(rows)
            for name, column in made.columns.items():
                data[name] = column
            size = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
            if size < len(data) or actor.ppo_epochs > 1:
                with torch.no_grad():
                    log_prob_NT, _ = log_probs(self.model, data)
                data["old_log_probs"] = of_responses(log_prob_NT, data)
            norms, entropies = [], []
            # As verl's worker does, except that a mini-batch is not split further.
            for mini_batch in tu.make_iterator(
                data,
                mini_batch_size=size,
                epochs=actor.ppo_epochs,
                seed=actor.data_loader_seed,
                dataloader_kwargs={"shuffle": actor.shuffle},
            ):
                optimizer.zero_grad()
                value, entropy = loss_of(loss, self.model, mini_batch)
                value.backward()
                norms.append(clip_grad_norm_(self.model.parameters(), optim.clip_grad).item())
                optimizer.step()
                entropies.append(entropy)
            yield Step(
                correct=rows.correct_N.double().mean().item(),
                length=rows.length_N.double().mean().item(),
                length_gap=made.metrics.get("aggregation/length_gap"),
                entropy=fmean(entropies),
                gradient_norm=fmean(norms),
            )

    def accuracy(self, samples: int, seed: int) -> list[int]:
        """Return how many of `samples` responses to each held-out problem are correct."""
        torch.manual_seed(seed)
        at_once, right = 128, []
        for begin in range(0, len(self.held_out), at_once):
            found = self.sampler.sample(self.held_out[begin : begin + at_once], samples)
            correct = torch.tensor([one.score > 0 for one in found]).view(-1, samples)
            right += correct.sum(1).tolist()
        return right


def check(config: DictConfig) -> None:
    """Refuse what the laboratory does not do.

    Raises:
        UserError: the config asks for it.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    optim, settings = actor.optim, Settings.of(config)
    objective = settings.begin(config)
    refused = {
        "sampling that is not at temperature 1 from all tokens": (rollout.temperature != 1)
        or (rollout.top_p != 1)
        or (rollout.top_k > 0),
        "a learned scalar": settings.aggregation.scalar is not None,
        "a KL term": actor.use_kl_loss or config.algorithm.use_kl_in_reward,
        "an entropy term": bool(actor.entropy_coeff),
        "a learning rate that changes": optim.lr_scheduler_type != "constant"
        or max(optim.lr_warmup_steps, optim.lr_warmup_steps_ratio) > 0,
        "filtered groups": config.algorithm.filter_groups.enable,
        "rollout correction": config.algorithm.rollout_correction.rollout_is is not None,
        "an objective that looks at a whole mini-batch": type(objective.loss()).prepare
        is not Loss.prepare,
        "an advantage that needs a judge": objective.needs("progress_N"),
        "follow_snr": settings.follow_snr is not None,
        "leave_out_solved": settings.leave_out_solved is not None,
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise UserError(
                f"the config has {name}, which the laboratory does not have. Leave it out, or run "
                f"it on the live stack with recipe.main."
            )


def as_batch(sampled: Sequence[Scored], config: DictConfig) -> tuple[TensorDict, Responses]:
    """Return responses as verl's trainer sends them to workers, and as the objective reads them.

    Args:
        sampled: the responses, group by group.
        config: a resolved config.
    """
    size = config.actor_rollout_ref.rollout.n
    group_N = torch.arange(len(sampled)) // size
    score_N = torch.tensor([one.score for one in sampled], dtype=torch.float32)
    length_N = torch.tensor([len(one.token) for one in sampled])
    mask_NT = torch.arange(int(length_N.max())) < length_N[:, None]
    reward_NT = torch.zeros(mask_NT.shape).scatter(1, length_N[:, None] - 1, score_N[:, None])
    advantage_NT = compute_grpo_outcome_advantage(
        reward_NT,
        mask_NT.float(),
        group_N.numpy(),
        norm_adv_by_std_in_grpo=config.algorithm.norm_adv_by_std_in_grpo,
    )[0]
    # Equal scores have advantage 0, but for the rounding of their mean.
    advantage_N = advantage_NT[:, 0].where(varies_within(score_N, group_N), 0.0)
    nested = {
        "input_ids": [torch.cat([one.prompt, one.token]) for one in sampled],
        "responses": [one.token for one in sampled],
        "prompts": [one.prompt for one in sampled],
        "response_mask": [torch.ones_like(one.token) for one in sampled],
        "advantages": [
            a.expand(length) for a, length in zip(advantage_N, length_N.tolist(), strict=True)
        ],
    }
    data = TensorDict(
        {
            name: torch.nested.as_nested_tensor(rows, layout=torch.jagged)
            for name, rows in nested.items()
        },
        batch_size=len(sampled),
    )
    limit = config.data.max_response_length
    rows = Responses(
        length_N=length_N,
        advantage_N=advantage_N,
        score_N=score_N,
        correct_N=score_N > 0,
        truncated_N=length_N >= limit,
        group_N=group_N,
        num_tokens_N=length_N,
        real_N=torch.ones(len(sampled), dtype=torch.bool),
        # A mini-batch is not split further.
        micro_N=group_N // config.actor_rollout_ref.actor.ppo_mini_batch_size,
        final_N=torch.arange(len(sampled)),
        info_N=[{}] * len(sampled),
        mask_NT=data["response_mask"],
        tokens_NT=data["responses"],
    )
    return data, rows


def log_probs(model: Any, data: TensorDict) -> tuple[Tensor, Tensor]:
    """Return log pi of the next token, and the entropy of the next token in nats.

    Both stand at each token of prompt and response, nested, as verl's engine returns them.

    Args:
        model: a causal language model.
        data: rows with `input_ids`.
    """
    every_NTV, padded_NT = every_log_prob(model, data)
    log_prob_NT = every_NTV.gather(-1, padded_NT.roll(-1, 1)[..., None])[..., 0]
    with torch.no_grad():
        entropy_NT = -(every_NTV.exp() * every_NTV).sum(-1)
    return as_nested(log_prob_NT, data), as_nested(entropy_NT, data)


@torch.no_grad()
def squares(model: Any, data: TensorDict) -> Tensor:
    """Return `Responses.square_N` under the model, as the live stack makes it of verl's columns."""
    every_NTV, padded_NT = every_log_prob(model, data)
    log_prob_NT = every_NTV.gather(-1, padded_NT.roll(-1, 1)[..., None])[..., 0]
    return logit_squares(
        {
            "response_mask": data["response_mask"],
            "old_log_probs": of_responses(as_nested(log_prob_NT, data), data),
            SUM_SQUARES: as_nested((2 * every_NTV).exp().sum(-1), data),
        }
    )


def every_log_prob(model: Any, data: TensorDict) -> tuple[Tensor, Tensor]:
    """Return log pi of every next token at each token, and the padded token ids."""
    ids: Any = data["input_ids"]
    # Causal attention: what is padded on the right changes nothing before it.
    padded_NT = ids.to_padded_tensor(0)
    return model(padded_NT).logits.log_softmax(-1), padded_NT


def as_nested(value_NT: Tensor, data: TensorDict) -> Tensor:
    """Return a padded column over prompt and response as a nested one."""
    ids: Any = data["input_ids"]
    inside_NT = torch.arange(value_NT.shape[1]) < ids.offsets().diff()[:, None]
    return torch.nested.nested_tensor_from_jagged(value_NT[inside_NT], ids.offsets())


def of_responses(values_NT: Tensor, data: TensorDict) -> Tensor:
    """Return what stands at the tokens of the responses, nested."""
    rows = [
        row[-len(token) - 1 : -1]
        for row, token in zip(values_NT.unbind(0), data["responses"].unbind(0), strict=True)
    ]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def loss_of(loss: Loss, model: Any, data: TensorDict) -> tuple[Tensor, float]:
    """Return the loss of a mini-batch, and the mean entropy of its tokens in nats.

    Args:
        loss: of the objective.
        model: a causal language model.
        data: the mini-batch; without `old_log_probs` the model itself has sampled it.
    """
    log_prob_NT, entropy_NT = log_probs(model, data)
    data = data.copy()
    if "old_log_probs" not in data:
        data["old_log_probs"] = of_responses(log_prob_NT.detach(), data)
    tokens: Any = of_responses(entropy_NT, data)
    # Facts that verl's engine adds.
    tu.assign_non_tensor(
        data, batch_num_tokens=len(tokens.values()), global_batch_size=len(data), dp_size=1
    )
    return loss({"log_probs": log_prob_NT}, data)[0], tokens.values().mean().item()
