"""verl's trainer with aggregation weights: a column of the batch, and metrics.

The mixin goes in front of verl's trainers; the name of the mode stays verl's own, because verl keys
behaviour on it.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.aggregation import over_all_rows, value_and_slope
from recipe.columns import group_numbers, per_response, prompt_of, row_sums, varies_within
from recipe.cost import num_gpus
from recipe.diagnostics import by_verdict, common_prefix, diagnose
from recipe.learned import LearnedScalar
from recipe.policy_loss import (
    SLOPE_COLUMN,
    SLOPE_METRIC,
    WEIGHT_COLUMN,
    for_worker,
    weighted_ppo_loss,
)
from recipe.rewards import is_this_projects, refuse_broken, reward_metrics, right
from recipe.settings import AggregationSettings
from recipe.validation import TaskLoader, validation_metrics
from recipe.worker import measured
from reward.sources import RewardSettings

WAIT_SECONDS = 10.0


class AggregationMixin(PPOTrainer):
    """Computes a weight per response after the advantages and has the actor train with it."""

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role, worker in self.role_worker_mapping.items():
            if issubclass(worker.__ray_actor_class__, ActorRolloutRefWorker):
                self.role_worker_mapping[role] = ray.remote(measured(worker.__ray_actor_class__))

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self.config.poll_interval
        return buffer

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self.settings = AggregationSettings.from_config(self.config)
        self.scalar = None
        if self.settings.scalar is not None:
            self.scalar = LearnedScalar(self.settings.scalar)
            if self.global_steps > 0:
                self.scalar.load(Path(self.config.trainer.resume_from_path))

    def _save_checkpoint(self) -> None:
        # First, because verl's own part ends by declaring the checkpoint complete.
        if self.scalar is not None:
            folder = Path(self.config.trainer.default_local_dir)
            self.scalar.save(folder / f"global_step_{self.global_steps}")
        super()._save_checkpoint()

    def on_init_end(self) -> None:
        """Verl's hook between set-up and training."""
        super().on_init_end()
        self.install_loss()

    def install_loss(self) -> None:
        """Have the actor workers train with the loss of the current config."""
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(partial(weighted_ppo_loss, config=for_worker(actor)))

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        with marked_timer("aggregation", self.timing_raw):
            return self._add_weights(batch, metrics)

    def _add_weights(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Put the weight column into the batch and its diagnostics into the metrics."""
        fields = ["advantages", "response_mask", "rm_scores", "responses", "extra_fields"]
        data = tq.kv_batch_get(batch.keys, batch.partition_id, select_fields=fields)
        length_N, advantage_N = per_response(data["response_mask"], data["advantages"])
        score_N = row_sums(data["rm_scores"])
        info_N = [extra.get("reward_extra_info", {}) for extra in data["extra_fields"]]
        refuse_broken(score_N, info_N)
        group_N = group_numbers([prompt_of(key) for key in batch.keys])
        if not self.config.algorithm.use_kl_in_reward:
            # Equal scores have advantage 0, but for the rounding of their mean.
            advantage_N = advantage_N.where(varies_within(score_N, group_N), 0.0)
        limit = self.config.data.max_response_length
        truncated_N = torch.tensor([tag["response_len"] >= limit for tag in batch.tags])

        counted_N = length_N > 0
        if self.settings.mask_truncated:
            counted_N &= ~truncated_N
        if self.settings.drop_zero_groups:
            counted_N &= torch.isin(group_N, group_N[counted_N & (advantage_N != 0)])
        length_C, advantage_C, group_C = (x[counted_N] for x in (length_N, advantage_N, group_N))
        rules = self.settings.rules(self.scalar and self.scalar.value)
        weights = {n: weigh(length_C, advantage_C, group_C) for n, weigh in rules.items()}
        columns = {WEIGHT_COLUMN: weights[self.settings.rule]}
        if self.scalar is not None:
            columns[SLOPE_COLUMN] = value_and_slope(
                rules[self.settings.rule], self.scalar.value, length_C, advantage_C, group_C
            )[1]
            metrics["aggregation/scalar"] = self.scalar.value
        metrics |= by_verdict(length_N, right(score_N, info_N), advantage_N, truncated_N)
        metrics |= reward_metrics(length_N > 0, info_N)
        if counted_N.any():
            responses = data["responses"]
            begin_N, tokens_N = responses.offsets()[:-1], responses.offsets().diff()
            prefix_P = common_prefix(
                responses.values(), begin_N[counted_N], tokens_N[counted_N], group_C
            )
            rule = self.settings.rule
            metrics |= diagnose(length_C, advantage_C, group_C, weights, rule, prefix_P)
        whole = {name: over_all_rows(part, counted_N).float() for name, part in columns.items()}
        return tq.kv_batch_put(batch.keys, batch.partition_id, fields=TensorDict(whole, len(batch)))

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        names = self.config.data.get("val_tasks") or ()
        others = self.config.actor_rollout_ref.rollout.val_kwargs.n
        self.val_dataloader = TaskLoader(self.val_dataloader, names, others)

    def _val_metrics_update(
        self, data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts
    ):
        infos = reward_extra_infos_dict
        errors = infos.get("error") or [None] * len(sample_uids)
        scores = torch.tensor(infos["reward"])
        refuse_broken(scores, ({"error": error} for error in errors))
        if not is_this_projects(self.config):
            return super()._val_metrics_update(
                data_sources, sample_uids, infos, sample_turns, expected_acc_counts
            )
        given = self.config.reward.custom_reward_function.reward_kwargs
        settings = RewardSettings.of(OmegaConf.to_container(given))
        return validation_metrics(data_sources, sample_uids, infos, expected_acc_counts, settings)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._update_actor(batch, metrics)
        if self.scalar is not None:
            self.scalar.step(metrics[f"actor/{SLOPE_METRIC}"])
        return batch


def wait_for_gpus(need: int) -> None:
    """Wait until a cluster that has `need` GPUs has them free; verl would give up at once."""
    while (free := gpus(ray.available_resources())) < need <= gpus(ray.cluster_resources()):
        print(f"waiting: the run needs {need} GPUs, and {free:.0f} are free", flush=True)
        time.sleep(WAIT_SECONDS)


def gpus(resources: Mapping[str, float]) -> float:
    """How many of Ray's resources are GPUs, on a CPU cluster logical ones."""
    return resources.get("GPU", 0)


@ray.remote
class AggregationTaskRunner(TaskRunnerV1.__ray_actor_class__):
    """verl's task runner, with the mixin in front of the configured trainer."""

    def run(self, config) -> None:
        """Train; the trainer's mode keeps the name that verl gave it."""
        from verl.trainer.ppo.v1 import trainer_base

        wait_for_gpus(num_gpus(config))
        mode = config.trainer.v1.trainer_mode
        trainer = type("AggregationTrainer", (AggregationMixin, get_trainer_cls(mode)), {})
        trainer_base.TRAINER_REGISTRY[mode] = trainer
        super().run(config)
