"""Provide every probe with responses of the small model and verl's engine to measure on.

The engine is the one that trains: verl's actor worker with FSDP2 in float32, with the measurements
and the weighted loss that the trainer installs. Axes: `_N` responses,
`_P` groups, `_X` all parameters in a row.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.base.errors import UserError
from recipe.maths.rules import RULES, with_limit
from recipe.objectives.losses.weighted import WEIGHT_COLUMN, weighted_ppo_loss
from recipe.sampling.groups import SampledGroups
from recipe.sampling.in_process import Sampler
from recipe.training.worker import adamw_changes, local, measured

GROUP_SIZE = 8
# Prompts whose responses are sampled at a time.
PROMPTS_AT_ONCE = 16
# An exponent of the rule lambda far enough from 0, where it is `token`, to be told from it.
EXPONENT = -2.0
NO_CLIP = 1e9
# Rules whose loss and whose push on a shared prefix follow from the lengths of one group.
CLOSED_FORMS = ("sequence", "token", "token_batch", "constant", "balanced", "lambda")
Report = Callable[[str], None]


def rules(limit: float) -> dict[str, Callable[..., Tensor]]:
    """Return the rules that have closed forms at this length limit, and `lambda` at `EXPONENT`."""
    found = with_limit(limit) | {"lambda": partial(RULES["lambda"], exponent=EXPONENT)}
    return {name: found[name] for name in CLOSED_FORMS}


def weights(responses: SampledGroups, limit: float) -> dict[str, Tensor]:
    """Return weight_N under each of these rules, from the full lengths of the responses."""
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
    """Run verl's actor worker in this process, with its own model and optimizer."""

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

    @property
    def module(self) -> Any:
        """Return the model, as verl wrapped it."""
        return self.worker.actor.engine.module

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
        self.sampler = Sampler(config)
        self.limit = self.sampler.limit
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
            found += self.sampler.sample(rows, GROUP_SIZE)
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
