"""Run a framework's training step on every fixture, on one rank and on two. Imports torch only."""

import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
from torch.multiprocessing import get_context

from benchmarks.conformance.fixtures import BATCHES, SPLITS, Batch, Split, Table, weights_of

PACKAGES = (
    "accelerate",
    "deepspeed",
    "numpy",
    "tensordict",
    "torch",
    "transformers",
    "trl",
    "unsloth",
)


class Setting(NamedTuple):
    """Name one choice of a framework, and the code that was called for it."""

    name: str
    """Spell it as a user writes it."""
    values: dict[str, Any]
    """Hold what the peer's script reads."""
    default: bool = False
    other_loss: bool = False
    """Say whether it changes more than how token losses are added up."""


Step = Callable[[Setting, Batch, Split, int, Table], bool]
"""Train one step on a rank's part of a batch; the gradient stays in the table. False: cannot."""


class _Absent(ModuleType):
    """A module that is not installed. Whatever is imported from it is a name that nobody calls."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Absentees(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        known = name.partition(".")[0] in self.names
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


def absent(*names: str) -> None:
    """Let a framework import packages that need a GPU and that its loss does not call."""
    # transformers asks once which of them are installed.
    importlib.import_module("transformers.integrations.flash_attention")
    sys.meta_path.append(_Absentees(names))


def _on_rank(rank: int, ranks: int, port: int, module: str, queue: Any) -> None:
    """Run every setting on every split with so many ranks, in a process of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Frameworks print; the result is what is printed to stdout at the end.
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    try:
        peer = importlib.import_module(module)
        found = []
        for setting in peer.SETTINGS:
            for batch in BATCHES:
                for split in SPLITS:
                    table = Table()
                    if len(split.ranks) != ranks or not peer.step(
                        setting, batch, split, rank, table
                    ):
                        continue
                    gradient = table.log_prob.grad
                    if hasattr(gradient, "full_tensor"):
                        gradient = gradient.full_tensor()
                    weights = weights_of(gradient, batch)
                    found.append((setting.name, batch.name, split.name, weights, table.seen))
        queue.put((rank, found))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def on_ranks(ranks: int, module: str) -> list[dict[str, Any]]:
    """Return the weights of every setting and split with so many ranks.

    Raises:
        RuntimeError: a rank failed; its traceback is the message.
    """
    context, port = get_context("spawn"), _free_port()
    queue = context.Queue()
    processes = [
        context.Process(target=_on_rank, args=(rank, ranks, port, module, queue), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    while len(found) < ranks:
        rank, found[rank] = queue.get()
        if isinstance(found[rank], str):
            for process in processes:
                process.kill()
            raise RuntimeError(f"rank {rank} failed:\n{found[rank]}")
    for process in processes:
        process.join()
    runs = []
    for of_ranks in zip(*(found[rank] for rank in range(ranks)), strict=True):
        name, batch, split, weights, _ = of_ranks[0]
        micro_batches = [rows for *_, seen in of_ranks for rows in seen]
        number = {row: micro for micro, rows in enumerate(micro_batches) for row in rows}
        micro = [number[row] for row in range(len(weights))]
        rounded = [float(f"{weight:.10g}") for weight in weights]
        runs.append(
            {"name": name, "batch": batch, "split": split, "weights": rounded, "micro": micro}
        )
    return runs


def report(module: str, framework: str, package: str, how: str, functions: list[str]) -> None:
    """Print the weights that each setting of a framework gives, as JSON.

    Args:
        module: the peer's script, with `SETTINGS` and `step`.
        framework: its name for people.
        package: its name as a package.
        how: what of the framework was run.
        functions: the code that makes the loss, `file:function`.
    """
    peer = importlib.import_module(module)
    runs = [run for ranks in (1, 2) for run in on_ranks(ranks, module)]
    settings = []
    for setting in peer.SETTINGS:
        mine = [dict(run) for run in runs if run["name"] == setting.name]
        for run in mine:
            del run["name"]
        settings.append(
            {
                "setting": setting.name,
                "default": setting.default,
                "other_loss": setting.other_loss,
                "runs": mine,
            }
        )
    versions = {
        found.name: found.version
        for found in distributions()
        if found.name in (*PACKAGES, package, package.replace("-", "_"))
    }
    result = {
        "framework": framework,
        "package": package,
        "how": how,
        "functions": functions,
        "versions": {"python": sys.version.split()[0]} | dict(sorted(versions.items())),
        "settings": settings,
    }
    Path(sys.argv[1]).write_text(json.dumps(result))
