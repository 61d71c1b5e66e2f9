"""Define an advantage: the input it reads, what it returns, and how it is found by its name.

An advantage is a file of this folder with one subclass of `Advantage`. A run chooses it by the
file's name: the section `advantage.NAME` of the config holds its settings.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor


class Scored(NamedTuple):
    """The scored responses of a train batch, without padding. Groups are numbered from 0."""

    advantage_N: Tensor
    """verl's GRPO advantages. They are exactly 0 where the scores of the group are equal."""
    score_N: Tensor
    """The reward's score."""
    correct_N: Tensor
    """Say whether the response is correct, bool."""
    length_N: Tensor
    """Trained tokens; 0 if all were rejected."""
    num_tokens_N: Tensor
    """Tokens, trained or not."""
    group_N: Tensor
    """Number of the prompt's group."""
    info_N: Sequence[Mapping[str, Any]]
    """Hold what the reward function returned for each response."""
    square_N: Tensor | None = None
    """Squared norm of the gradient of log pi by the logits, added up over the trained tokens."""
    progress_N: Tensor | None = None
    """Share of the response before its first wrong step, by a judge; NaN without a verdict. It is
    asked for in groups without a correct response."""


class Memory(Protocol):
    """Hold what the driver remembers between steps. A checkpoint keeps it."""

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raise FileNotFoundError or ValueError if that is not there."""
        ...


class Advantage(ABC):
    """Make the advantages that a run trains with from verl's GRPO advantages."""

    Settings: ClassVar[type | None] = None
    """Dataclass of the section `advantage.NAME`; None if it has no settings."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of `Scored` that it reads and that are otherwise None: `square_N`, `progress_N`."""
    memory: Memory | None = None

    def __init__(self, settings: Any, divide_by_std: bool = True) -> None:
        """Take the settings, and `algorithm.norm_adv_by_std_in_grpo`."""
        self.settings, self.divide_by_std = settings, divide_by_std

    @abstractmethod
    def __call__(self, rows: Scored) -> tuple[Tensor, dict[str, float]]:
        """Return the advantage of each response, (N,), and metrics of the batch."""
