"""Differentiate each response once, and keep the gradients, or sketches of them, on disk.

Each rank keeps its own part in a file of its own.
Two inner products of gradients are measured: the plain one, which belongs to steps of SGD, and the
one after AdamW's scaling P = 1 / (sqrt(v) + eps), <G_i, P G_j>, which belongs to steps of AdamW.
Axes: `_N` responses, `_W` numbers kept of a gradient.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipe.estimator.model import Model
from recipe.estimator.ranks import added, least
from recipe.maths.sketch import CountSketch
from recipe.maths.within import normalised_within
from recipe.sampling.groups import SampledGroups

METRICS = ("sgd", "adamw")
ADAMW_EPS = 1e-8


def adamw_scale(
    model: Model, responses: SampledGroups, batch_size: int, say: Callable[[str], None]
) -> list[Tensor]:
    """Return P = 1 / (sqrt(v) + eps) for each parameter, the same for all rules.

    v is the mean square of the gradients A_i G_i / mean length of single responses, over the size
    of a batch: what AdamW's average of the squared batch gradient is under `token_batch` as long
    as noise is most of it. As in AdamW, v holds the responses that P scales, so no step explodes.

    Args:
        model: the model.
        responses: all responses.
        batch_size: responses of a train batch.
        say: shows progress.
    """
    advantage_N = normalised_within(responses.score_N, responses.group_N, 1e-6)
    factor_N = advantage_N / responses.length_N.double().mean()
    square = [torch.zeros_like(p) for p in model.parameters]
    for i, factor in enumerate(factor_N.tolist()):
        if factor:
            gradient = model.gradient(responses.prompt_N[i], responses.token_N[i])
            for whole, part in zip(square, gradient, strict=True):
                whole.addcmul_(part, part, value=factor**2)
        if (i + 1) % 512 == 0 or i + 1 == len(factor_N):
            say(f"measured AdamW's scaling on {i + 1} of {len(factor_N)} responses")
    num = len(factor_N) * batch_size
    return [1 / ((whole / num).sqrt() + ADAMW_EPS) for whole in square]


class Store(NamedTuple):
    """Keep one row of numbers for each response in a file that grows."""

    path: Path
    model: Model
    scale: list[Tensor]
    """AdamW's P for each parameter."""
    sketch: CountSketch | None
    """None keeps the gradients themselves."""

    @property
    def width(self) -> int:
        """Return how many numbers of one response are kept."""
        if self.sketch is None:
            return sum(self.model.sizes)
        return len(METRICS) * self.sketch.width

    def row(self, gradient: list[Tensor]) -> Tensor:
        """Return what is kept of a gradient: itself, or its sketches in both metrics."""
        if self.sketch is None:
            return torch.cat([part.flatten() for part in gradient]).float()
        scaled = [part * p.sqrt() for part, p in zip(gradient, self.scale, strict=True)]
        return torch.cat([self.sketch(gradient), self.sketch(scaled)])

    def fill(self, responses: SampledGroups, say: Callable[[str], None]) -> None:
        """Add the rows that are missing, in the order of the responses."""
        row_bytes, num = 4 * self.width, len(responses.token_N)
        # All ranks compute the same response; a kill may have left them at different ones.
        done = least(self.path.stat().st_size // row_bytes if self.path.exists() else 0)
        with self.path.open("ab") as file:
            file.truncate(done * row_bytes)
            for i in range(done, num):
                gradient = self.model.gradient(responses.prompt_N[i], responses.token_N[i])
                file.write(self.row(gradient).cpu().numpy().tobytes())
                if (i + 1) % 256 == 0 or i + 1 == num:
                    file.flush()
                    os.fsync(file.fileno())
                    say(f"differentiated {i + 1} of {num} responses")

    def grams(self) -> dict[str, Tensor]:
        """Return <G_i, G_j> and <G_i, P G_j>, (N, N) float64, by the name of the metric."""
        return {name: added(gram_NN) for name, gram_NN in self._own_grams().items()}

    def _own_grams(self) -> dict[str, Tensor]:
        kept = np.memmap(self.path, np.float32, "r").reshape(-1, self.width)
        if self.sketch is not None:
            halves = np.split(kept, len(METRICS), axis=1)
            return {name: gram(half) for name, half in zip(METRICS, halves, strict=True)}
        scale_W = torch.cat([p.flatten() for p in self.scale]).cpu().sqrt().numpy()
        return {"sgd": gram(kept), "adamw": gram(kept, scale_W)}


def gram(rows_NW: np.ndarray, scale_W: np.ndarray | None = None) -> Tensor:
    """Return the inner products of rows, scaled first, (N, N) float64.

    Products of float32 are added up in blocks of columns, which are added up in float64.
    """
    num, width = rows_NW.shape
    found_NN = torch.zeros(num, num, dtype=torch.double)
    for begin in range(0, width, 2**15):
        block = torch.from_numpy(rows_NW[:, begin : begin + 2**15].copy())
        if scale_W is not None:
            block *= torch.from_numpy(scale_W[begin : begin + 2**15])
        found_NN += (block @ block.T).double()
    return found_NN
