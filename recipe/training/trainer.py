"""verl's trainer with aggregation weights: a column of the batch, and metrics.

The mixin goes in front of verl's trainers; the name of the mode stays verl's own, because verl keys
behaviour on it.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.single_controller.ray.base import ResourcePoolManager
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.config.data import is_this_projects
from recipe.config.methods import advantage_of, disco_of
from recipe.config.resources import num_gpus
from recipe.config.settings import AggregationSettings
from recipe.maths.advantages.ha_dw import Anchor
from recipe.maths.columns import spread
from recipe.maths.diagnostics import by_verdict
from recipe.maths.learned import LearnedScalar
from recipe.maths.rules import over_all_rows, value_and_slope
from recipe.objectives.disco_batch import disco_columns, is_on_policy, whole_groups
from recipe.objectives.disco_loss import ON_POLICY, DiscoLoss
from recipe.objectives.weighted_loss import (
    SLOPE_COLUMN,
    SLOPE_METRIC,
    WEIGHT_COLUMN,
    for_worker,
    weighted_ppo_loss,
)
from recipe.training.responses import Responses, describe, read_responses
from recipe.training.rewards import refuse_broken, reward_metrics
from recipe.training.validation import TaskLoader, validation_metrics
from recipe.training.worker import measured
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
        self.choose()
        if self.global_steps > 0:
            for memory in self.memories():
                memory.load(Path(self.config.trainer.resume_from_path))

    def choose(self) -> None:
        """Rule, advantage and objective of the current config, as a run begins with them."""
        self.settings = AggregationSettings.from_config(self.config)
        self.scalar = self.settings.scalar and LearnedScalar(self.settings.scalar)
        self.advantage = advantage_of(self.config)
        self.disco = disco_of(self.config)

    def memories(self) -> list[LearnedScalar | Anchor]:
        """What the driver remembers between steps, and a checkpoint therefore holds."""
        anchor = self.advantage and self.advantage.memory
        return [memory for memory in (self.scalar, anchor) if memory is not None]

    def _save_checkpoint(self) -> None:
        # First, because verl's own part ends by declaring the checkpoint complete.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        for memory in self.memories():
            memory.save(folder)
        super()._save_checkpoint()

    def on_init_end(self) -> None:
        """Verl's hook between set-up and training."""
        super().on_init_end()
        self.install_loss()

    def install_loss(self) -> None:
        """Have the actor workers train with the loss of the current config."""
        if self.disco:
            loss = DiscoLoss(self.disco)
        else:
            actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
            loss = partial(weighted_ppo_loss, config=for_worker(actor))
        self.actor_rollout_wg.set_loss_fn(loss)

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        batch = super()._balance_batch(batch, metrics, **kwargs)
        if self.disco:
            ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
            parts = whole_groups(batch, self.config, ranks)
            tokens = [sum(batch.tags[row]["seq_len"] for row in part) for part in parts]
            metrics["global_seqlen/balanced_min"] = min(tokens)
            metrics["global_seqlen/balanced_max"] = max(tokens)
            batch.reorder([row for part in parts for row in part])
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        with marked_timer("aggregation", self.timing_raw):
            return self._add_columns(batch, metrics)

    def _add_columns(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Put what the loss needs into the batch, and what it means into the metrics."""
        rows = read_responses(batch, self.config)
        if self.disco:
            columns = disco_columns(rows)
            metrics |= describe(rows, rows.length_N > 0, self.settings.rules(), None)
        else:
            rows = self._advantages(rows, batch, metrics)
            columns = self._weights(rows, metrics)
        metrics |= by_verdict(rows.length_N, rows.correct_N, rows.advantage_N, rows.truncated_N)
        metrics |= reward_metrics(rows.length_N > 0, rows.info_N)
        fields = TensorDict(columns, len(batch))
        return tq.kv_batch_put(batch.keys, batch.partition_id, fields=fields)

    def _advantages(self, rows: Responses, batch: KVBatchMeta, metrics: dict) -> Responses:
        """The rows with the chosen advantages, which replace verl's in the batch."""
        if self.advantage is None:
            return rows
        advantage_N, found = self.advantage(rows.scored())
        metrics |= {f"advantage/{key}": value for key, value in found.items()}
        rows = rows.with_advantages(advantage_N)
        spread_NT = spread(rows.advantage_N, rows.mask_NT)
        fields = TensorDict({"advantages": spread_NT, "returns": spread_NT}, len(batch))
        tq.kv_batch_put(batch.keys, batch.partition_id, fields=fields)
        return rows

    def _weights(self, rows: Responses, metrics: dict) -> dict[str, Tensor]:
        """The weight column of the batch, and its diagnostics in the metrics."""
        counted_N = rows.length_N > 0
        if self.settings.mask_truncated:
            counted_N &= ~rows.truncated_N
        if self.settings.drop_zero_groups:
            mixed = rows.group_N[counted_N & (rows.advantage_N != 0)]
            counted_N &= torch.isin(rows.group_N, mixed)
        rules = self.settings.rules(self.scalar and self.scalar.value)
        rule = rules[self.settings.rule]
        facts = [x[counted_N] for x in (rows.length_N, rows.advantage_N, rows.group_N)]
        columns = {WEIGHT_COLUMN: rule(*facts)}
        if self.scalar is not None:
            columns[SLOPE_COLUMN] = value_and_slope(rule, self.scalar.value, *facts)[1]
            metrics["aggregation/lambda_scalar"] = self.scalar.value
        metrics |= describe(rows, counted_N, rules, self.settings.rule)
        return {name: over_all_rows(part, counted_N).float() for name, part in columns.items()}

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
        if self.disco:
            batch.extra_info[ON_POLICY] = is_on_policy(self.config, len(batch))
        batch = super()._update_actor(batch, metrics)
        if self.scalar is not None:
            self.scalar.step(metrics[f"actor/{SLOPE_METRIC}"])
        return batch


def wait_for_gpus(need: int) -> None:
    """Wait until a cluster that has `need` GPUs has them free; verl would give up at once."""
    while (free := gpus(ray.available_resources())) < need <= gpus(ray.cluster_resources()):
        print(f"waiting: the run needs {need} GPUs, and {free:.0f} are free", flush=True)
        time.sleep(WAIT_SECONDS)


def refuse_few_cpus(config: DictConfig) -> None:
    """Ray would wait for CPUs without an end and without a word.

    Raises:
        RuntimeError: a cluster has fewer than what verl's actors hold, and one to place others by.
    """
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    # What verl's placement groups ask for beside a GPU.
    beside = ResourcePoolManager.max_colocate_count
    need = beside * num_gpus(config) + units + 2
    there = ray.cluster_resources().get("CPU", 0)
    if there < need:
        raise RuntimeError(
            f"Ray has {there:.0f} CPUs, but the run needs {need}: {beside} a GPU, {units} for "
            f"transfer_queue.backend.SimpleStorage.num_data_storage_units and 2 more. Lower that "
            f"number, or tell Ray of more CPUs than there are, as most actors only wait: "
            f"ray_kwargs.ray_init.num_cpus={need}, or --num-cpus where the cluster is started"
        )


def gpus(resources: Mapping[str, float]) -> float:
    """How many of Ray's resources are GPUs, on a CPU cluster logical ones."""
    return resources.get("GPU", 0)


@ray.remote
class AggregationTaskRunner(TaskRunnerV1.__ray_actor_class__):
    """verl's task runner, with the mixin in front of the configured trainer."""

    def run(self, config) -> None:
        """Train; the trainer's mode keeps the name that verl gave it."""
        from verl.trainer.ppo.v1 import trainer_base

        refuse_few_cpus(config)
        wait_for_gpus(num_gpus(config))
        mode = config.trainer.v1.trainer_mode
        trainer = type("AggregationTrainer", (AggregationMixin, get_trainer_cls(mode)), {})
        trainer_base.TRAINER_REGISTRY[mode] = trainer
        super().run(config)
