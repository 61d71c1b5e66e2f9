"""List what the project uses of verl that is not public, and check it before a run starts.

The trainer overrides private methods, and other code reads private attributes and registries. verl
may rename or change any of them in a release without a word, and an override of a method that is
gone is simply never called. `check` compares the installed verl with this list. What
`verl_patches` replaces is checked by each patch itself.
"""

import importlib
import inspect
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

from recipe.base.errors import UserError
from verl_patches.guard import RELEASES, source_hash


class Expected(NamedTuple):
    """An object of verl, and what must be true of it; without more, it must exist."""

    name: str
    """Its name within the module."""
    reason: str
    """Why the project needs it."""
    sha256: str = ""
    """`source_hash` of a function whose behaviour the project relies on."""
    parameters: str = ""
    """The names of its parameters, for a function that the project only calls."""
    mentions: tuple[str, ...] = ()
    """Names that its source must contain, e.g. of attributes that the project reads."""


def check() -> None:
    """Check that the installed verl is the one this project was written for.

    Raises:
        UserError: it is not; the message names every difference.
    """
    found = list(differences())
    if found:
        release = RELEASES["verl"]
        raise UserError(
            f"the installed verl is not the one this project was written for: "
            f"{'; '.join(found)}. Install verl=={release} (make install, or on a CUDA machine "
            f"requirements/gpu.lock.txt). To move to another release, adapt what uses each of "
            f"these and update recipe/training/border.py, RELEASES in verl_patches/guard.py and "
            f"requirements/ together."
        )


def differences() -> Iterator[str]:
    """Yield each difference between the installed verl and `BORDER`, in words."""
    release, installed = RELEASES["verl"], version("verl")
    if installed != release:
        yield f"its version is {installed}, expected {release}"
    for module, entries in BORDER.items():
        for expected in entries:
            problem = difference(module, expected)
            if problem:
                yield f"{module}.{expected.name} {problem} ({expected.reason})"


def difference(module: str, expected: Expected) -> str | None:
    """Return how an object of verl differs from what is expected, None if it does not."""
    try:
        found: Any = importlib.import_module(module)
        for part in expected.name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return "is missing"
    if expected.sha256 and (actual := source_hash(found)) != expected.sha256:
        return f"has changed: source hash {actual}, expected {expected.sha256}"
    if expected.parameters:
        names = inspect.signature(found).parameters
        # Ray adds its own where the class, or one that inherits from it, was made an actor.
        parameters = ", ".join(name for name in names if name != "_ray_trace_ctx")
        if parameters != expected.parameters:
            return f"takes the parameters ({parameters}), expected ({expected.parameters})"
    if expected.mentions:
        source = inspect.getsource(found)
        missing = [name for name in expected.mentions if name not in source]
        if missing:
            return f"no longer uses {', '.join(missing)}"
    return None


BORDER: dict[str, tuple[Expected, ...]] = {
    "verl.trainer.main_ppo": (
        Expected(
            "run_ppo",
            "recipe.main starts training with it, with a task runner of its own",
            parameters="config, task_runner_class",
        ),
        Expected(
            "TaskRunnerV1.__ray_actor_class__.run",
            "AggregationTaskRunner extends it, and it takes the trainer from TRAINER_REGISTRY",
            sha256="26be986901db",
        ),
    ),
    "verl.trainer.ppo.v1.trainer_base": (
        Expected("TRAINER_REGISTRY", "the trainer with the mixin replaces verl's in it"),
        Expected("get_trainer_cls", "finds verl's trainer of a mode", parameters="name"),
        Expected(
            "PPOTrainer._step_once",
            "AggregationMixin relies on its order: balance, advantages, then the update",
            sha256="efdd4abe161c",
        ),
        Expected(
            "PPOTrainer._init_resource_pool_mgr",
            "it fills role_worker_mapping, in which measured workers replace verl's",
            sha256="9eaa3bab711e",
        ),
        Expected(
            "PPOTrainer._build_replay_buffer",
            "AggregationMixin sets the poll interval of the buffer it returns",
            sha256="c6c5bd078331",
        ),
        Expected(
            "PPOTrainer._load_checkpoint",
            "what the driver remembers is loaded after it, from the same checkpoint",
            sha256="bb446d77c48a",
        ),
        Expected(
            "PPOTrainer._save_checkpoint",
            "what the driver remembers is saved before it, into the folder global_step_N it "
            "names; recipe/run/journal.py finds checkpoints by that name",
            sha256="8c2435b577e5",
        ),
        Expected(
            "PPOTrainer.on_init_end",
            "the loss is installed after it, and before the first step",
            sha256="01cf299fc2b4",
        ),
        Expected(
            "PPOTrainer._balance_batch",
            "rows are ordered by groups after it, by the ranks it notes in _dispatch_info",
            sha256="f9b6e887d750",
            mentions=("_dispatch_info",),
        ),
        Expected(
            "PPOTrainer._compute_old_log_prob",
            "it asks the actor for log-probabilities, which then returns sum_pi_squared, too",
            sha256="b2630e6178ed",
        ),
        Expected(
            "PPOTrainer._compute_advantage",
            "weights and other advantages are computed from the columns it writes",
            sha256="2a4a2aa4a475",
        ),
        Expected(
            "PPOTrainer._update_actor",
            "the slope of the learned scalar is read from the metrics it adds",
            sha256="d7009bd8a69d",
        ),
        Expected(
            "PPOTrainer._init_dataloader",
            "validation batches get their number of samples from the loader it makes",
            sha256="86cf3749e087",
        ),
        Expected(
            "PPOTrainer._validate",
            "it takes the column __rollout_n__ that the loader adds",
            sha256="f1d58a70e91d",
            mentions=("__rollout_n__",),
        ),
        Expected(
            "PPOTrainer._val_metrics_update",
            "the scores of the final evaluation replace its metrics",
            sha256="8cecd418b501",
        ),
    ),
    "verl.trainer.ppo.v1.replay_buffer": (
        Expected(
            "ReplayBuffer.__init__",
            "AggregationMixin sets poll_interval",
            mentions=("self.poll_interval",),
        ),
    ),
    "verl.trainer.ppo.v1.agent_loop_tq": (
        Expected(
            "AgentLoopWorkerTQ._run_prompt",
            "it samples __rollout_n__ responses and numbers them by session_id",
            sha256="3d9bca6b0ea5",
            mentions=("__rollout_n__", "session_id"),
        ),
    ),
    "verl.experimental.agent_loop.single_turn_agent_loop": (
        Expected(
            "SingleTurnAgentLoop.run",
            "SeededSingleTurn adds a seed to the sampling parameters it hands to vLLM",
            sha256="1baec41cee2d",
        ),
    ),
    "verl.single_controller.ray.base": (
        Expected(
            "ResourcePoolManager.max_colocate_count",
            "the CPUs that a run needs are counted with it before Ray waits for them",
        ),
        Expected(
            "ResourcePoolManager.create_resource_pool",
            "it claims max_colocate_count CPUs for each GPU",
            sha256="a9e7f55d87f9",
        ),
    ),
    "verl.single_controller.base.worker_group": (
        Expected(
            "WorkerGroup.__init__",
            "DisCO reads the number of data-parallel ranks from _dispatch_info",
            mentions=("self._dispatch_info",),
        ),
    ),
    "verl.workers.engine_workers": (
        Expected(
            "TrainingWorker.__init__",
            "MeasuredTrainingWorker reads these attributes",
            mentions=(
                "self.model_config",
                "self.engine_config",
                "self.optimizer_config",
                "self.engine:",
                "self.loss_fn",
            ),
        ),
        Expected(
            "TrainingWorker.train_batch",
            "MeasuredTrainingWorker measures the update around it",
            sha256="9107065b72b6",
        ),
        Expected(
            "ActorRolloutRefWorker.actor_worker_cls",
            "the measured training worker takes its place",
        ),
        Expected(
            "ActorRolloutRefWorker.init_model",
            "it makes the actor from actor_worker_cls",
            mentions=("self.actor_worker_cls(",),
        ),
        Expected(
            "ActorRolloutRefWorker.set_loss_fn",
            "the trainer gives the actor its loss with it",
            parameters="self, loss_fn",
        ),
    ),
    "verl.workers.engine.fsdp.transformer_impl": (
        Expected(
            "FSDPEngine._init_device_mesh",
            "the norm of the update is summed over the mesh dimension fsdp",
            mentions=("self.device_mesh",),
        ),
        Expected(
            "FSDPEngine.optimizer_step",
            "it clips the gradient, and skips the step of one that is not finite",
            sha256="08227531d730",
        ),
        Expected(
            "FSDPEngine.forward_backward_batch",
            "it gives the loss dp_size, batch_num_tokens and global_batch_size of a mini-batch",
            sha256="be92c8d155f0",
        ),
    ),
    "verl.workers.utils.losses": (
        Expected(
            "ppo_loss",
            "the weighted loss hands it padded advantages, which it leaves as they are",
            sha256="d7c0f8772b44",
        ),
    ),
    "verl.workers.utils.padding": (
        Expected(
            "no_padding_2_padding",
            "it takes the response tokens from a model output, shifted by one",
            sha256="0868d5c4731b",
        ),
        Expected(
            "response_from_nested",
            "it does the same with nested columns",
            sha256="41a4bf54aa98",
        ),
    ),
    "verl.trainer.ppo.core_algos": (
        Expected("POLICY_LOSS_REGISTRY", "every loss in it is tried before it trains"),
        Expected("get_policy_loss_fn", "finds the loss of a mode", parameters="name"),
        Expected(
            "agg_loss",
            "the weighted loss undoes its division by the tokens of the mini-batch",
            sha256="fd052ff7eb53",
        ),
        Expected(
            "compute_policy_loss_vanilla",
            "the clipping excess is measured where its actor/pg_clipfrac is above 0",
            sha256="1a0214517a6d",
        ),
    ),
    "verl.utils.metric.utils": (
        Expected("Metric.__init__", "losses report with it", parameters="self, aggregation, value"),
        Expected("Metric.from_dict", "DisCO reports with it", parameters="data, aggregation"),
        Expected("AggregationType.SUM", "the learned scalar's slope is summed over micro-batches"),
        Expected("AggregationType.MEAN", "DisCO's metrics are averaged over micro-batches"),
    ),
    "verl.utils.tracking": (
        Expected(
            "FileLogger.__init__",
            "recipe/run/journal.py follows the file that VERL_FILE_LOGGER_PATH names",
            sha256="6f4fe3e1c5af",
            mentions=("VERL_FILE_LOGGER_PATH",),
        ),
        Expected(
            "FileLogger.log",
            "recipe/run/journal.py reads step and data from each line",
            sha256="0a0b2277b25e",
        ),
    ),
    "verl.utils.checkpoint.fsdp_checkpoint_manager": (
        Expected(
            "FSDPCheckpointManager.save_checkpoint",
            "recipe/run/checkpoints.py knows an actor's shards by fsdp_config.json",
            mentions=("fsdp_config.json",),
        ),
    ),
}
