"""Recognise what OpenRLHF logs, and say how to get all responses.

Read in openrlhf 0.11.2: it writes no rollouts. Its W&B table `generated_samples` has one response
a step (`global_step`, `text`, `reward`), so no group has two.
"""

from collections.abc import Sequence
from pathlib import Path

from recipe.analysis.readers.tables import SUFFIXES, column_names
from recipe.analysis.rollouts import Options, Rollouts
from recipe.base.errors import UserError

COLUMNS = {"global_step", "text", "reward"}


class OpenRlhf:
    """Refuse the table of OpenRLHF with the way to a dump that can be analysed."""

    name = "openrlhf"
    writes = "nothing by itself: see docs/analyze.md"
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return its W&B tables."""
        return sorted(folder.glob("generated_samples*.table.json"))

    def detects(self, path: Path) -> bool:
        """Return whether a table has the columns of its W&B table."""
        return path.suffix in SUFFIXES and set(column_names(path)) == COLUMNS

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{files[0]} is the table generated_samples of OpenRLHF, which has one response a "
            f"step, but the analysis needs all responses to each prompt. Let your reward function "
            f"write them as JSONL (docs/analyze.md has the lines), and read that file with "
            f"--columns prompt=prompt,response=response,reward=reward."
        )
