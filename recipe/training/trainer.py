"""verl's trainer, with the chosen objective: its columns, its loss, its metrics, its memory.

The mixin goes in front of verl's trainers. The name of the trainer's mode stays verl's own, because
verl keys behaviour on it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.single_controller.ray.base import ResourcePoolManager
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, get_trainer_cls
from verl.utils.debug import marked_timer
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.config.settings import Settings
from recipe.estimate.gpus import num_gpus
from recipe.maths.advantages.base import Memory
from recipe.maths.diagnostics import by_verdict
from recipe.maths.signal import SignalToNoise
from recipe.training import border
from recipe.training.halves import LR_FACTOR, SIGNAL, SQUARE
from recipe.training.order import complete_groups
from recipe.training.progress import judged
from recipe.training.resampling import PassRates, count_correct, without_solved
from recipe.training.responses import SUM_SQUARES, read_responses
from recipe.training.rewards import refuse_broken, reward_metrics
from recipe.training.validation import TaskLoader, validation_metrics
from recipe.training.worker import measured
from reward import steps

WAIT_SECONDS = 10.0


class AggregationMixin(PPOTrainer):
    """Have the objective add columns after verl's advantages, and the actor train with its loss."""

    pass_rates: PassRates | None = None
    """Under `leave_out_solved`, how many responses to each prompt were correct."""

    def __init__(self, config: DictConfig) -> None:
        """Begin the objective, then set verl up."""
        self.begin(config)
        super().__init__(config)

    def begin(self, config: DictConfig) -> None:
        """Parse the settings and begin the objective that they choose."""
        self.settings = Settings.of(config)
        self.objective = self.settings.begin(config)
        memory = self.settings.follow_snr
        self.signal = None if memory is None else SignalToNoise(memory)
        self.judge = steps.begin(self.settings.step_judge)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role, worker in self.role_worker_mapping.items():
            if issubclass(worker.__ray_actor_class__, ActorRolloutRefWorker):
                self.role_worker_mapping[role] = ray.remote(measured(worker.__ray_actor_class__))

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        others = self.config.actor_rollout_ref.rollout.val_kwargs.n
        if (solved_at := self.settings.leave_out_solved) is not None:
            found = without_solved(self.train_dataloader, solved_at)
            self.train_dataloader, self.pass_rates = found
        self.val_dataloader = TaskLoader(self.val_dataloader, self.settings.val_tasks, others)

    def _build_replay_buffer(self) -> ReplayBuffer:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = self.settings.poll_interval
        return buffer

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps > 0:
            for memory in self._memories():
                memory.load(Path(self.config.trainer.resume_from_path))

    def _save_checkpoint(self) -> None:
        # First, because verl's own part ends by declaring the checkpoint complete.
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        for memory in self._memories():
            memory.save(folder)
        super()._save_checkpoint()

    def _memories(self) -> list[Memory]:
        own = [memory for memory in (self.pass_rates, self.signal) if memory is not None]
        return [*self.objective.memories(), *own]

    def on_init_end(self) -> None:
        """Give the loss to the actor workers. verl calls this between set-up and training."""
        super().on_init_end()
        self.install_loss()

    def install_loss(self) -> None:
        """Have the actor workers train with the objective's loss."""
        self.actor_rollout_wg.set_loss_fn(self.objective.loss())

    def ranks(self) -> int:
        """Return how many data-parallel ranks the actor has."""
        return max(self.actor_rollout_wg._dispatch_info["actor"]) + 1

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs: Any) -> KVBatchMeta:
        batch = super()._balance_batch(batch, metrics, **kwargs)
        size, asked_by = self.objective.rows_of_whole_groups(), self.settings.objective.name
        if self.signal:
            # The halves of a mini-batch share no group.
            size, asked_by = self.objective.mini_batch_rows() // 2, "follow_snr"
        if size is not None:
            parts = complete_groups(batch.keys, batch.tags, self.ranks(), size, asked_by)
            tokens = [sum(batch.tags[row]["seq_len"] for row in part) for part in parts]
            metrics["global_seqlen/balanced_min"] = min(tokens)
            metrics["global_seqlen/balanced_max"] = max(tokens)
            batch.reorder([row for part in parts for row in part])
        return batch

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        if not self.objective.needs("square_N"):
            return super()._compute_old_log_prob(batch, metrics)
        told = f"calculate_{SUM_SQUARES}"
        batch.extra_info = {**(batch.extra_info or {}), told: True}
        batch = super()._compute_old_log_prob(batch, metrics)
        # The update needs no more of them.
        batch.extra_info = {**(batch.extra_info or {}), told: False}
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        with marked_timer("aggregation", self.timing_raw):
            return self._add_columns(batch, metrics)

    def _add_columns(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Put what the loss reads into the batch, and what it means into the metrics."""
        rows = read_responses(batch, self.config, self.ranks(), self.objective.needs("square_N"))
        if self.pass_rates:
            metrics["data/solved_prompts"] = count_correct(batch, rows, self.pass_rates)
        if self.objective.needs("progress_N"):
            with marked_timer("judge", self.timing_raw):
                assert self.judge
                progress_N, found = judged(batch, rows, self.tokenizer, self.judge)
            rows = rows._replace(progress_N=progress_N)
            metrics |= found
        step = self.objective.step(rows)
        rows = step.rows
        metrics |= step.metrics
        metrics |= by_verdict(rows.length_N, rows.correct_N, rows.advantage_N, rows.truncated_N)
        metrics |= reward_metrics(rows.length_N > 0, rows.info_N)
        fields = TensorDict(step.columns, len(batch))
        return tq.kv_batch_put(batch.keys, str(batch.partition_id), fields=fields)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        told = self.objective.before_update(len(batch))
        if self.signal:
            told = {**told, LR_FACTOR: self.signal.factor}
        batch.extra_info = {**(batch.extra_info or {}), **told}
        batch = super()._update_actor(batch, metrics)
        self.objective.after_update(metrics)
        if self.signal:
            self.signal.add(metrics[f"actor/{SIGNAL}"], metrics[f"actor/{SQUARE}"])
        return batch

    def _val_metrics_update(
        self, data_sources, sample_uids, reward_extra_infos_dict, sample_turns, expected_acc_counts
    ):
        infos = reward_extra_infos_dict
        errors = infos.get("error") or [None] * len(sample_uids)
        scores = torch.tensor(infos["reward"])
        refuse_broken(scores, ({"error": error} for error in errors))
        if self.settings.reward is None:
            return super()._val_metrics_update(
                data_sources, sample_uids, infos, sample_turns, expected_acc_counts
            )
        return validation_metrics(
            data_sources, sample_uids, infos, expected_acc_counts or {}, self.settings.reward
        )


def wait_for_gpus(need: int) -> None:
    """Wait until a cluster that has `need` GPUs has them free; verl would give up at once."""
    while (free := gpus(ray.available_resources())) < need <= gpus(ray.cluster_resources()):
        print(f"Waiting for GPUs: {need} needed, {free:.0f} free.", flush=True)
        time.sleep(WAIT_SECONDS)


def refuse_few_cpus(config: DictConfig) -> None:
    """Refuse a cluster with too few CPUs, where Ray would wait for ever without a word.

    Raises:
        RuntimeError: the cluster has fewer CPUs than verl's actors hold, plus one to place others.
    """
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    # What verl's placement groups ask for beside a GPU.
    beside = ResourcePoolManager.max_colocate_count
    need = beside * num_gpus(config) + units + 2
    there = ray.cluster_resources().get("CPU", 0)
    if there < need:
        raise RuntimeError(
            f"Ray has {there:.0f} CPUs, but the run needs {need}: {beside} for each GPU, {units} "
            f"for transfer_queue.backend.SimpleStorage.num_data_storage_units, and 2 more. Lower "
            f"that number, or declare more CPUs to Ray than there are, because most actors only "
            f"wait: ray_kwargs.ray_init.num_cpus={need}, or --num-cpus where the cluster starts"
        )


def gpus(resources: Mapping[str, float]) -> float:
    """Return how many of Ray's resources are GPUs; on a CPU cluster these are logical ones."""
    return resources.get("GPU", 0)


# Ray does not declare the class behind an actor.
Runner: Any = TaskRunnerV1.__ray_actor_class__  # pyright: ignore[reportAttributeAccessIssue]


@ray.remote
class AggregationTaskRunner(Runner):
    """verl's task runner, with the mixin in front of the configured trainer."""

    def run(self, config) -> None:
        """Train. The trainer's mode keeps the name that verl gave it."""
        from verl.trainer.ppo.v1 import trainer_base

        border.check()
        refuse_few_cpus(config)
        wait_for_gpus(num_gpus(config))
        mode = config.trainer.v1.trainer_mode
        trainer = type("AggregationTrainer", (AggregationMixin, get_trainer_cls(mode)), {})
        trainer_base.TRAINER_REGISTRY[mode] = trainer
        super().run(config)
