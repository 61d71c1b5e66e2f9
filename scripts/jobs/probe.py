"""Plan a probe as a job: `recipe.probe` on one node, with one process for each GPU."""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from recipe.base.errors import UserError
from recipe.config.compose import composed, resolve
from recipe.probe import DEFAULT_EXPERIMENT, ESTIMATOR, parser


class PlannedProbe(NamedTuple):
    """Hold one probe."""

    name: str
    """`probe.PROBE-HASH`, the same for the same words."""
    words: tuple[str, ...]
    """The arguments of `recipe.probe`."""
    config: DictConfig
    folder: Path
    gpus: int
    """How many GPUs it takes, one process for each."""

    @property
    def digest(self) -> str:
        """Return a hash of its command."""
        return hashlib.sha256(shlex.join(self.command).encode()).hexdigest()[:16]

    @property
    def command(self) -> list[str]:
        """Return the arguments of the interpreter."""
        probe = ["-m", "recipe.probe", *self.words]
        if self.gpus < 2:
            return probe
        ranks = ["--standalone", f"--nproc-per-node={self.gpus}"]
        return ["-m", "torch.distributed.run", *ranks, *probe]

    @property
    def env(self) -> dict[str, str]:
        """Return nothing: a probe needs no variables."""
        return {}

    @property
    def own_gpus(self) -> int:
        """Return its GPUs: it starts no actors."""
        return self.gpus

    @property
    def on_cpu(self) -> bool:
        """Return whether its GPUs are logical."""
        return self.config.trainer.device == "cpu"

    @property
    def is_finished(self) -> bool:
        """Return whether its result exists, as far as this machine sees the outputs."""
        return (self.folder / "result.json").is_file()

    @property
    def is_missing(self) -> bool:
        """Return whether this machine sees the output folder, and no result in it."""
        return self.folder.parents[1].is_dir() and not self.is_finished

    def print_report(self) -> None:
        """Print the report, if this machine sees the outputs."""
        if self.is_finished:
            print((self.folder / "report.md").read_text())


def plan_probe(
    asked: str,
    experiments: Sequence[str],
    overrides: Sequence[str],
    places: Sequence[str],
    gpus: int,
    outputs: Path,
) -> PlannedProbe:
    """Return the probe that is asked for.

    Args:
        asked: arguments of `recipe.probe`, such as "estimator --prompts 512".
        experiments: at most one, whose model and data are measured.
        overrides: of its config.
        places: overrides that say where data is.
        gpus: processes, one for each GPU.
        outputs: the output folder, where all nodes see it.

    Raises:
        UserError: there are too many experiments, or options that this probe does not take.
    """
    words = shlex.split(asked)
    given = parser().parse_args(words)
    if given.out:
        raise UserError("--out is given, but a job writes to --output-root. Leave it out.")
    if len(experiments) > 1:
        raise UserError(f"a probe takes one experiment, not {' and '.join(experiments)}.")
    if given.name != ESTIMATOR:
        if experiments or overrides or gpus > 1:
            raise UserError(
                f"{given.name} measures the demo's small model in one process. Leave out the "
                f"experiment, KEY=VALUE and --gpus, or choose the probe {ESTIMATOR}."
            )
        overrides, words = [DEFAULT_EXPERIMENT], words[1:]
        chosen = []
    else:
        chosen = [f"+experiment={name}" for name in experiments]
        chosen = [*given.overrides, *chosen] or [DEFAULT_EXPERIMENT]
        chosen = overrides = [*chosen, *overrides, *places]
        words = [word for word in words[1:] if word not in given.overrides]
        # A job runs in a copy of this folder.
        for option in ("model", "data"):
            path = getattr(given, option)
            if path and Path(path).exists():
                words += [f"--{option}", str(Path(path).absolute())]
    config = composed(list(overrides))
    resolve(config)
    digest = hashlib.sha256(shlex.join([*chosen, *words]).encode()).hexdigest()[:8]
    folder = outputs.absolute() / "probes" / f"{given.name}-{digest}"
    every = (given.name, *chosen, *words, "--out", str(folder))
    return PlannedProbe(f"probe.{folder.name}", every, config, folder, gpus)
