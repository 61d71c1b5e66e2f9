"""Read the traces that prime-rl writes.

Read in prime-rl 559b4477 with verifiers 0.4.0: the file monitor writes an episode a line into
`rollouts/step_STEP/train/effective/traces.jsonl`. A trace has messages as nodes; a node has a mask
of the tokens that the model sampled, and their advantages.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.analysis.readers.tables import load_table
from recipe.analysis.readers.verl import first_row
from recipe.analysis.rollouts import Collector, Options, Response, Rollouts
from recipe.analysis.token_counts import counted_lengths

STEP = re.compile(r"step_(\d+)/train/\w+/traces\.jsonl$")


class PrimeRl:
    """Read what the file monitor of prime-rl writes unless it is turned off."""

    name = "prime-rl"
    writes = "rollouts/step_*/train/effective/traces.jsonl in the folder of a run"
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return the files of what was trained on, in the order of steps."""
        return sorted(folder.glob("**/step_*/train/effective/traces.jsonl"), key=step_of)

    def detects(self, path: Path) -> bool:
        """Return whether the first line is an episode."""
        row = first_row(path) if path.suffix == ".jsonl" else None
        return row is not None and {"traces", "task", "env"} <= row.keys()

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read the traces of agents that are trained.

        Raises:
            UserError: an episode cannot be used.
        """
        lengths = counted_lengths(options, "from the masks of the nodes")
        collector = Collector(skip_bad=options.skip_bad)
        for path in files:
            step = step_of(path)

            def convert(episode: Mapping[str, Any], step: int = step) -> Iterator[Response]:
                step = episode["run"]["work"]["step"] if step < 0 else step
                for trace in episode["traces"]:
                    if trace["agent"]["trainable"]:
                        yield response(trace, step, episode["group"]["id"])

            collector.add(path, load_table(path), convert)
        return collector.rollouts(lengths, "group.id")


def step_of(path: Path) -> int:
    """Return the step in the path, or -1 if it has none."""
    found = STEP.search(path.as_posix())
    return int(found[1]) if found else -1


def response(trace: Mapping[str, Any], step: int, group: str) -> Response:
    """Return a trace as one response: its sampled tokens, its reward, its advantage.

    A trace whose tokens have different advantages gets their mean.
    """
    advantages = [value for node in trace["nodes"] for value in node.get("advantages") or []]
    rewards = [reward for reward in trace["rewards"].values() if reward is not None]
    return Response(
        step,
        group,
        sum(sum(node["mask"]) for node in trace["nodes"]),
        float(sum(reward["score"] * reward["weight"] for reward in rewards)),
        sum(advantages) / len(advantages) if advantages else None,
    )
