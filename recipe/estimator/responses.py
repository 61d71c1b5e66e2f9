"""Sample responses once and keep them: a probe that was killed samples only what is missing."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from recipe.base.errors import UserError
from recipe.base.files import read_lines, write_lines
from recipe.sampling.groups import SampledGroups
from recipe.sampling.scored import Scored

# Groups between two lines of progress.
SAY_EVERY = 16


def chosen_rows(rows: Sequence[Mapping[str, Any]], num: int, seed: int) -> list[int]:
    """Return the positions of `num` prompts, chosen by the seed.

    Raises:
        UserError: there are fewer prompts.
    """
    if len(rows) < num:
        raise UserError(
            f"the data has {len(rows)} prompts, and {num} are needed (--prompts and --fresh "
            f"together). Ask for fewer, or give more with --data."
        )
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return order[:num]


class GroupSampler(Protocol):
    """Sample groups of responses: `Sampler` or `VllmSampler`."""

    limit: int
    """Length limit in tokens."""

    @property
    def at_once(self) -> int:
        """Return how many prompts share a seed: a part of such a block is sampled again."""
        ...

    def sample_groups(
        self,
        rows: Mapping[int, Mapping[str, Any]],
        group_size: int,
        seed: int,
        keep: Callable[[int, list[Scored]], None],
    ) -> None:
        """Sample a group for each row, and give it to `keep`."""
        ...


def sample_missing(
    path: Path,
    sampler: GroupSampler,
    rows: Sequence[Mapping[str, Any]],
    group_size: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Sample the groups that the file does not hold yet, and add each as soon as it is complete.

    Args:
        path: a file of JSON lines, one for each prompt.
        sampler: samples and scores.
        rows: the prompts.
        group_size: responses of each prompt, G.
        seed: of sampling.
        say: shows progress.
    """
    kept = {record["row"]: record for record in (read_lines(path) if path.exists() else [])}
    begins = range(0, len(rows), sampler.at_once)
    blocks = [range(begin, min(begin + sampler.at_once, len(rows))) for begin in begins]
    missing = {row: rows[row] for block in blocks if not set(block) <= kept.keys() for row in block}
    write_lines(path, (record for row, record in kept.items() if row not in missing))
    num = len(rows) - len(missing)
    if not missing:
        return
    with path.open("a") as file:

        def keep(row: int, group: list[Scored]) -> None:
            nonlocal num
            record = {
                "row": row,
                "prompt": group[0].prompt.tolist(),
                "responses": [one.token.tolist() for one in group],
                "scores": [one.score for one in group],
            }
            file.write(json.dumps(record) + "\n")
            file.flush()
            num += 1
            if num % SAY_EVERY == 0 or num == len(rows):
                say(f"sampled {num} of {len(rows)} groups")

        sampler.sample_groups(missing, group_size, seed, keep)


def read_groups(path: Path) -> SampledGroups:
    """Return the groups of a complete file, in the order of their prompts."""
    kept = sorted(read_lines(path), key=lambda record: record["row"])
    size = torch.tensor([len(group["responses"]) for group in kept])
    return SampledGroups(
        [torch.tensor(group["prompt"]) for group in kept for _ in group["responses"]],
        [torch.tensor(token) for group in kept for token in group["responses"]],
        torch.tensor([score for group in kept for score in group["scores"]]),
        torch.arange(len(kept)).repeat_interleave(size),
    )
