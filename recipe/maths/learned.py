"""The scalar that the rule `lambda` learns: its value, its optimizer, its place in a checkpoint."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt

FILE = "aggregation.pt"
OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class ScalarSettings:
    """Hold the section `aggregation.scalar`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    start: float
    """Exponent of the first batch."""
    spread: Annotated[float, Gt(0)]
    """Say how far lengths move h from 1; `r` in arXiv:2510.06870."""
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Gt(0)]
    """Learning rate. AdamW keeps torch's other defaults, except for a weight decay of 0."""


class LearnedScalar:
    """Hold a scalar on the driver and move it once per batch.

    The workers measure the derivative of the loss that they train with, so the derivative does not
    depend on how the batch is split.
    """

    def __init__(self, settings: ScalarSettings) -> None:
        """Start at `settings.start`."""
        start = torch.tensor(settings.start, dtype=torch.double)
        self.parameter = torch.nn.Parameter(start)
        decay = {"weight_decay": 0.0}
        self.settings = settings
        self.optimizer = OPTIMIZERS[settings.optimizer]([self.parameter], lr=settings.lr, **decay)

    @property
    def value(self) -> float:
        """Return the scalar for the next batch."""
        return self.parameter.item()

    def step(self, slope: float) -> None:
        """Move against `slope`, the derivative of the batch's loss by the scalar.

        A slope that is not finite moves nothing, as verl skips the update of such a batch.
        """
        if math.isfinite(slope):
            self.parameter.grad = torch.tensor(slope, dtype=torch.double)
            self.optimizer.step()

    def save(self, folder: Path) -> None:
        """Write value and optimizer state into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "value": self.parameter.data,
            "kind": self.settings.optimizer,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, folder / FILE)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; the learning rate stays that of the settings.

        Raises:
            FileNotFoundError: the checkpoint was not written under a rule with a scalar.
            ValueError: it was written with another optimizer.
        """
        if not (folder / FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE}: it was not saved under the rule lambda, or by a node "
                f"with a disk of its own. Resume from a checkpoint of that rule, on a disk "
                f"that all nodes see"
            )
        state = torch.load(folder / FILE, weights_only=True)
        if state["kind"] != self.settings.optimizer:
            raise ValueError(
                f"{folder} was saved with aggregation.scalar.optimizer={state['kind']}, but it is "
                f"{self.settings.optimizer} now; go on with the one it was saved with"
            )
        self.parameter.data.copy_(state["value"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr
