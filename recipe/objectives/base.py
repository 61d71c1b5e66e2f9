"""Define an objective: what it adds to a batch, which loss the workers run, what it remembers.

An objective is a file of this folder with one subclass of `Objective`. A run chooses it by the
file's name: the section `objective.NAME` of the config holds its settings. The driver calls the
methods in the order in which they stand here, once per step.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor

from recipe.maths.advantages.base import Advantage, Memory
from recipe.maths.aggregation import AggregationSettings
from recipe.maths.responses import Responses

# Tells the workers that the old log-probabilities of a batch are the current ones.
ON_POLICY = "on_policy"


@dataclass(frozen=True)
class Chosen:
    """Hold what a run's config chooses for its objective."""

    settings: Any
    """An object of the objective's `Settings`; None if it has none."""
    aggregation: AggregationSettings
    advantage: Advantage | None
    """None under an objective without advantages."""
    verl: DictConfig
    """verl's resolved config."""


@dataclass
class Step:
    """Hold what an objective makes of a batch."""

    columns: dict[str, Tensor]
    """Columns that the loss reads, one row per response."""
    metrics: dict[str, float]
    rows: Responses
    """The rows, with the advantages that train."""


class Loss(ABC):
    """Compute the loss of a micro-batch in a worker. verl sends an instance to every worker."""

    def prepare(self, engine: Any, data: TensorDict, forward: dict[str, Any]) -> None:
        """Look at a whole mini-batch before its update. By default nothing is needed.

        Args:
            engine: the actor's engine.
            data: this rank's rows of the mini-batch.
            forward: the engine's settings of a forward pass.
        """

    @abstractmethod
    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return this micro-batch's part of the loss, and metrics."""


class Objective(ABC):
    """Decide what is optimised. One instance lives on the driver for a whole run."""

    Settings: ClassVar[type | None] = None
    """Dataclass of the section `objective.NAME`; None if it has no settings."""
    has_aggregation: ClassVar[bool] = True
    """Say whether an aggregation rule and an advantage belong to it."""

    def __init__(self, chosen: Chosen) -> None:
        """Begin a run."""
        self.chosen = chosen

    def needs(self, name: str) -> bool:
        """Return whether the advantage reads a field of `Scored` that is otherwise None."""
        return self.chosen.advantage is not None and name in self.chosen.advantage.needs

    def check(self) -> None:
        """Refuse settings of verl under which this objective would mean something else.

        Raises:
            UserError: there is one. It is called before Ray starts.
        """

    def memories(self) -> Sequence[Memory]:
        """Return what the driver remembers between steps. A checkpoint keeps it."""
        return ()

    @abstractmethod
    def loss(self) -> Loss:
        """Return the loss that the actor workers run."""

    def rows_of_whole_groups(self) -> int | None:
        """Return of how many rows at a time all groups must be complete; None if any order does."""
        return None

    @abstractmethod
    def step(self, rows: Responses) -> Step:
        """Return the columns that the loss reads and the metrics of a batch."""

    def before_update(self, num_rows: int) -> dict[str, Any]:
        """Return what every worker is told about the batch beside its columns."""
        return {}

    def after_update(self, metrics: dict[str, Any]) -> None:
        """Learn from the metrics of the update."""

    def mini_batch_rows(self) -> int:
        """Return how many responses an update trains on."""
        actor = self.chosen.verl.actor_rollout_ref
        return actor.actor.ppo_mini_batch_size * actor.rollout.n

    def is_on_policy(self, num_rows: int) -> bool:
        """Return whether a batch makes one update, of the model that computed its log-probs."""
        actor, v1 = self.chosen.verl.actor_rollout_ref.actor, self.chosen.verl.trainer.v1
        one_update = num_rows == self.mini_batch_rows() and actor.ppo_epochs == 1
        # verl computes the old log-probs of a step's later mini-batches with its first model.
        stale = v1.trainer_mode == "separate_async" and v1.separate_async.parameter_sync_step > 1
        bypassed = self.chosen.verl.algorithm.rollout_correction.bypass_mode
        return one_update and not stale and not bypassed
