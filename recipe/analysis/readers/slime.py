"""Read the rollouts that slime saves.

Read in slime 624b824a: `save_debug_rollout_data` writes a file a rollout with `rollout_id` and
`samples`, each sample as a dictionary.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recipe.analysis.readers.tables import key_of
from recipe.analysis.rollouts import Collector, Options, Response, Rollouts
from recipe.analysis.token_counts import counted_lengths
from recipe.base.errors import UserError


class Slime:
    """Read what slime writes with `--save-debug-rollout-data FOLDER/{rollout_id}.pt`."""

    name = "slime"
    writes = "*.pt of --save-debug-rollout-data or --dump-details"
    # Without --calculate-per-token-loss.
    default_rule = "sequence"

    def files(self, folder: Path) -> list[Path]:
        """Return the files of train batches, in the order of rollouts."""
        found = [*folder.glob("*.pt"), *folder.glob("rollout_data/*.pt")]
        found = [path for path in found if not path.stem.startswith("eval_")]
        return sorted(found, key=lambda file: (len(file.stem), file.stem))

    def detects(self, path: Path) -> bool:
        """Return whether the name is that of a file of torch."""
        return path.suffix == ".pt"

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read all files, without running code that they may hold.

        Raises:
            UserError: a file or a sample cannot be used.
        """
        lengths = counted_lengths(options, "from the loss mask")
        collector = Collector(skip_bad=options.skip_bad)
        for path in files:
            step, samples = load(path)

            def convert(sample: Mapping[str, Any], step: int = step) -> Iterator[Response]:
                mask = sample["loss_mask"]
                tokens = sample["response_length"] if mask is None else int(sum(mask))
                group = sample["group_index"]
                yield Response(
                    step,
                    key_of(sample["prompt"]) if group is None else group,
                    0 if sample["remove_sample"] else tokens,
                    reward_of(sample["reward"], options.columns.get("reward")),
                )

            collector.add(path, samples, convert)
        return collector.rollouts(lengths, "group_index")


def load(path: Path) -> tuple[int, list[Mapping[str, Any]]]:
    """Return the number of a rollout and its samples.

    Raises:
        UserError: the file is something else, or only slime itself can load it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return int(content["rollout_id"]), list(content["samples"])
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(
            f"{path} is no rollout of slime that can be read without running code from it "
            f"({str(error).splitlines()[0]}). Give files of --save-debug-rollout-data, whose "
            f"samples have only texts, numbers, lists and tensors in their metadata."
        ) from None


def reward_of(reward: Any, key: str | None) -> float:
    """Return the reward, or its part with the name that the user gives.

    Raises:
        ValueError: it has several parts, and none of them is named.
    """
    if not isinstance(reward, Mapping):
        return float(reward)
    if key not in reward:
        raise ValueError(
            f"the reward has parts {', '.join(map(str, reward))}: name one with --format slime "
            f"--columns reward=NAME"
        )
    return float(reward[key])
