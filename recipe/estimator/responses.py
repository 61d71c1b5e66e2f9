"""Sample responses once and keep them: a probe that was killed samples only what is missing."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from recipe.base.errors import UserError
from recipe.base.files import read_lines
from recipe.base.seeds import request_seed
from recipe.probes.sampling import SampledGroups, Sampler

# Prompts that are sampled, and written to disk, at a time.
AT_ONCE = 16


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


def sampled_groups(
    path: Path,
    sampler: Sampler,
    rows: Sequence[Mapping[str, Any]],
    group_size: int,
    seed: int,
    say: Callable[[str], None],
) -> SampledGroups:
    """Return a group of responses to each row, from the file as far as it has them.

    Args:
        path: a file of JSON lines, one for each prompt in the order of `rows`.
        sampler: samples and scores.
        rows: the prompts.
        group_size: responses of each prompt, G.
        seed: of sampling, with the number of the prompt.
        say: shows progress.
    """
    kept = read_lines(path) if path.exists() else []
    # Prompts are sampled together, so a part of them is sampled again.
    kept = kept[: len(kept) - len(kept) % AT_ONCE if len(kept) < len(rows) else len(rows)]
    with path.open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
        file.flush()
        for begin in range(len(kept), len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            torch.manual_seed(request_seed(seed, begin))
            found = iter(sampler.sample(part, group_size))
            for _ in part:
                group = list(islice(found, group_size))
                record = {
                    "prompt": group[0][0].tolist(),
                    "responses": [token.tolist() for _, token, _ in group],
                    "scores": [score for _, _, score in group],
                }
                kept.append(record)
                file.write(json.dumps(record) + "\n")
            file.flush()
            say(f"sampled {len(kept)} of {len(rows)} groups")
    return SampledGroups(
        [torch.tensor(group["prompt"]) for group in kept for _ in group["responses"]],
        [torch.tensor(token) for group in kept for token in group["responses"]],
        torch.tensor([score for group in kept for score in group["scores"]]),
        torch.arange(len(kept)).repeat_interleave(group_size),
    )
