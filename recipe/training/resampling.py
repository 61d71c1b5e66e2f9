"""Leave prompts that are solved out of later epochs: ScaleRL's no-positive-resampling.

The paper (arXiv:2510.13786) drops a prompt for good once its past pass rate is 0.9 or more. verl's
own order of prompts stays, without them. Axis: `_R` rows of the training data.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader
from transfer_queue import KVBatchMeta

from recipe.maths.responses import Responses

# The column with the number of a prompt's row in the training data.
ROW = "row"


class PassRates:
    """Remember how many responses to each prompt were correct, over the whole run."""

    def __init__(self, num_rows: int, solved_at: float) -> None:
        """Begin with no response to any prompt; `solved_at` is the share that counts as solved."""
        self.solved_at = solved_at
        self.correct_R = torch.zeros(num_rows, dtype=torch.long)
        self.num_R = torch.zeros(num_rows, dtype=torch.long)

    def add(self, row_N: Tensor, correct_N: Tensor) -> None:
        """Count responses.

        Args:
            row_N: the row of each response's prompt.
            correct_N: whether it is correct, bool.
        """
        self.num_R.index_add_(0, row_N, torch.ones_like(row_N))
        self.correct_R.index_add_(0, row_N, correct_N.long())

    def solved(self) -> list[int]:
        """Return the rows of the solved prompts."""
        is_solved_R = (self.num_R > 0) & (self.correct_R >= self.solved_at * self.num_R)
        return is_solved_R.nonzero()[:, 0].tolist()

    def save(self, folder: Path) -> None:
        """Write the counts into a checkpoint's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"correct": self.correct_R, "num": self.num_R}, folder / "pass_rates.pt")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is of other data.
        """
        found = torch.load(folder / "pass_rates.pt", weights_only=True)
        if len(found["num"]) != len(self.num_R):
            raise ValueError(
                f"{folder / 'pass_rates.pt'} is of {len(found['num'])} prompts, but the training "
                f"data has {len(self.num_R)}. Resume with the data of the run, or start anew."
            )
        self.correct_R, self.num_R = found["correct"], found["num"]


def count_correct(batch: KVBatchMeta, rows: Responses, rates: PassRates) -> float:
    """Count a batch, and return the share of all prompts that are solved."""
    chosen = rows.samples()
    keys = [batch.keys[place] for place in chosen.tolist()]
    data: Any = tq.kv_batch_get(keys, str(batch.partition_id), select_fields=[ROW])
    rates.add(torch.tensor([int(row) for row in data[ROW]]), rows.correct_N[chosen])
    return len(rates.solved()) / len(rates.num_R)


class Unsolved(Sampler[int]):
    """Yield the rows that another sampler yields, without those solved when the epoch began."""

    def __init__(self, inner: Sampler[int], rates: PassRates, batch_size: int) -> None:
        """Wrap a sampler."""
        self.inner, self.rates, self.batch_size = inner, rates, batch_size

    def __iter__(self) -> "Epoch":
        """Begin an epoch."""
        return Epoch(self)

    def __len__(self) -> int:
        """Return the rows of an epoch in which nothing is left out."""
        return len(self.rates.num_R)


class Epoch(Iterator[int]):
    """Iterate over one epoch. A checkpoint of verl's data loader keeps where it stands."""

    def __init__(self, sampler: Unsolved) -> None:
        """Begin.

        Raises:
            RuntimeError: too few prompts are left for a batch.
        """
        self.left_out = frozenset(sampler.rates.solved())
        self.rows: Any = iter(sampler.inner)
        self.num_drawn = 0
        left = len(sampler) - len(self.left_out)
        if left < sampler.batch_size:
            raise RuntimeError(
                f"{left} of {len(sampler)} prompts are not solved yet, and a batch needs "
                f"{sampler.batch_size}. Stop here, give more data, or raise leave_out_solved "
                f"(now {sampler.rates.solved_at:g})."
            )

    def __next__(self) -> int:
        """Return the next row that is not left out."""
        while True:
            row = next(self.rows)
            self.num_drawn += 1
            if row not in self.left_out:
                return row

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch stands."""
        inner = self.rows.state_dict() if hasattr(self.rows, "state_dict") else None
        return {"inner": inner, "num_drawn": self.num_drawn, "left_out": sorted(self.left_out)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.left_out, self.num_drawn = frozenset(state["left_out"]), state["num_drawn"]
        if state["inner"] is not None:
            self.rows.load_state_dict(state["inner"])
        else:
            for _ in range(self.num_drawn):
                next(self.rows)


class Numbered(Dataset):
    """Add the number of its row to each example."""

    def __init__(self, examples: Any) -> None:
        """Wrap a dataset."""
        self.examples = examples

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return an example with its number."""
        return {**self.examples[row], ROW: row}


def without_solved(
    loader: StatefulDataLoader, solved_at: float
) -> tuple[StatefulDataLoader, PassRates]:
    """Return verl's data loader, leaving solved prompts out after each epoch, and what it reads."""
    sampler: Any = loader.sampler
    rates = PassRates(len(sampler), solved_at)
    assert loader.batch_size
    numbered = StatefulDataLoader(
        dataset=Numbered(loader.dataset),
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
        sampler=Unsolved(sampler, rates, loader.batch_size),
    )
    return numbered, rates
