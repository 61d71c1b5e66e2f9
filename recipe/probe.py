"""Measure a hidden bias of group-based objectives (arXiv:2601.05002) beside its closed form.

    python -m recipe.probe prefix_push       # what a rule does to tokens that a group shares
    python -m recipe.probe reward_scale      # what AdamW makes of rewards ten times as large
    python -m recipe.probe momentum          # what moves on once the loss is flat
    python -m recipe.probe loss_value        # what the value of the loss says

Each samples responses of the small model, runs verl's engine on this machine's CPU, prints a table,
and writes report.md, NAME.png and result.json to outputs/probes/NAME; none takes over 90 s.
"""

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from omegaconf import DictConfig

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.provenance import provenance
from recipe.config.compose import composed, resolve
from recipe.run.console import output_to
from recipe.tasks import embedded

if TYPE_CHECKING:
    from recipe.probes.stage import Stage

NAMES = ("prefix_push", "reward_scale", "momentum", "loss_value")
# The only rank there is; the port is any that is free.
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("recipe.probe", __doc__)
    add = command.add_argument
    add("name", choices=NAMES, help="the bias to measure")
    add("--out", type=Path, metavar="FOLDER", help="where to write (default: outputs/probes/NAME)")
    add("--seed", type=int, default=0, help="of the sampled responses (default: 0)")
    return command


def main() -> None:
    """Run the probe, and report errors in one paragraph."""
    given = parser().parse_args()
    with errors_reported():
        try:
            run(given.name, given.seed, given.out or Path("outputs/probes") / given.name)
        except OSError as error:
            if error.filename is None:
                raise
            raise UserError(
                f"{error.filename}: {error.strerror}. Name another folder with --out."
            ) from None


def run(name: str, seed: int, folder: Path) -> None:
    """Measure, print, write.

    Raises:
        UserError: the small model cannot be made, or the responses are not what the probe needs.
    """
    started = time.monotonic()
    config = composed(["+experiment=cpu_demo", f"seed={seed}"])
    resolve(config)
    embedded.make(config.data.task)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.log"
    log.unlink(missing_ok=True)
    print(f"{name}: the output of verl goes to {log}", flush=True)
    with output_to(log) as terminal:

        def say(text: str) -> None:
            terminal.write(f"{time.monotonic() - started:5.1f} s  {text}\n")

        probe, stage = prepare(name, config, say)
        result = probe.measure(stage)
    result["seconds"] = round(time.monotonic() - started, 1)
    lines = probe.report(result)
    print("\n".join(["", *lines, ""]))
    for path in write(folder, name, probe, result | {"seed": seed, **provenance("recipe.probe")}):
        print(f"wrote {path}")


def prepare(
    name: str, config: DictConfig, say: Callable[[str], None]
) -> tuple[ModuleType, "Stage"]:
    """Return the module of a probe and its stage, on verl's platform of the config."""
    os.environ |= config.ray_kwargs.ray_init.runtime_env.env_vars
    os.environ |= ALONE
    # Before the modules that import verl, which asks its platform while it is imported.
    importlib.import_module("verl_patches")
    from recipe.probes.stage import Stage

    # Steps are small: on a busy machine threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    return importlib.import_module(f"recipe.probes.{name}"), Stage(config, say)


def write(folder: Path, name: str, probe: ModuleType, result: dict[str, Any]) -> list[Path]:
    """Write `report.md`, the picture and `result.json`; returns their paths."""
    report, picture, numbers = (folder / x for x in ("report.md", f"{name}.png", "result.json"))
    figure = plt.figure(figsize=(11, 4.5), layout="constrained")
    probe.draw(figure, result)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    lines = [
        f"# {name}, seed {result['seed']}",
        "",
        *probe.report(result),
        "",
        f"![{name}]({picture.name})",
        "",
        f"{result['seconds']:.0f} s. Commit {result['commit']}; `{result['command']}`; {versions}.",
    ]
    report.write_text("\n".join(lines) + "\n")
    numbers.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return [report, picture, numbers]


if __name__ == "__main__":
    main()
