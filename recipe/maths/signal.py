"""Let the learning rate follow the gradient's signal-to-noise ratio (OBLR-PO, arXiv:2511.23310).

With g the gradient of a mini-batch, and SNR = |E g|^2 / tr Var(g),

    learning rate = its maximum * SNR / (1 + SNR) = its maximum * |E g|^2 / E |g|^2

The paper's own formula was not at hand; this is the textbook form (assumed). With G1 and G2 the
gradients of two halves of a mini-batch that share no group, g = (G1 + G2) / 2 and <G1, G2> is
unbiased for |E g|^2. Both numbers are averaged over batches with a memory m (assumed), as one batch
says little:

    average <- m * average + (1 - m) * number

The ratio of the averages needs no correction for their start at 0. The factor of an update is that
of earlier batches, so it does not depend on the gradient that it multiplies.
"""

import json
import math
from pathlib import Path

FILE = "signal.json"


class SignalToNoise:
    """Hold the two averages on the driver."""

    def __init__(self, memory: float) -> None:
        """Start without any.

        Args:
            memory: m, at least 0 and below 1.
        """
        self.memory = memory
        self.signal = self.square = 0.0

    @property
    def factor(self) -> float:
        """Return the factor of the learning rate, from 0 to 1; 1 before the first batch."""
        if self.square == 0:
            return 1.0
        return min(max(self.signal / self.square, 0.0), 1.0)

    def add(self, signal: float, square: float) -> None:
        """Take in a batch; one whose gradient is not finite changes nothing, as in verl.

        Args:
            signal: <G1, G2>.
            square: |g|^2.
        """
        if math.isfinite(signal) and math.isfinite(square):
            self.signal = self.memory * self.signal + (1 - self.memory) * signal
            self.square = self.memory * self.square + (1 - self.memory) * square

    def save(self, folder: Path) -> None:
        """Write the averages into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps({"signal": self.signal, "square": self.square}))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the checkpoint was not written under `follow_snr`.
        """
        if not (folder / FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no {FILE}: it was not saved under follow_snr, or by a node with a "
                f"disk of its own. Resume from a checkpoint of such a run, or set follow_snr=null"
            )
        kept = json.loads((folder / FILE).read_text())
        self.signal, self.square = kept["signal"], kept["square"]
