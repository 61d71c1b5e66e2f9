"""Read the completions that TRL logs: parquet files, or its W&B table as JSON or CSV.

Read in TRL 1.16.0: `GRPOTrainer.log` writes `completions/completions_STEP.parquet` with the columns
`step`, `prompt`, `completion`, one per reward function, and `advantage`. Each file holds the newest
generation batch, so a batch that trains several steps is in several files.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.analysis.readers.tables import SUFFIXES, column_names, key_of, load_table, text_of
from recipe.analysis.rollouts import Collector, Options, Response, Rollouts
from recipe.analysis.token_counts import text_lengths

COLUMNS = {"step", "prompt", "completion", "advantage"}
PATTERNS = ("completions*.parquet", "completions/*.parquet", "completions*.table.json")


class Trl:
    """Read what GRPOTrainer writes with `log_completions=True`."""

    name = "trl"
    writes = "completions/*.parquet in output_dir, with log_completions=True"
    # Its loss_type dapo.
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return the files of the first pattern that has some, in the order of steps."""
        for pattern in PATTERNS:
            found = sorted(folder.glob(pattern), key=lambda file: (len(file.stem), file.stem))
            if found:
                return found
        return []

    def detects(self, path: Path) -> bool:
        """Return whether a table has TRL's columns."""
        return path.suffix in SUFFIXES and COLUMNS <= set(column_names(path))

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read all files, each generation batch once.

        Raises:
            UserError: they have no token counts, or a row cannot be used.
        """
        lengths = text_lengths(column_names(files[0]), "completion", options)
        size_of = text_of if lengths.of_texts else float

        def convert(row: Mapping[str, Any]) -> Iterator[Response]:
            yield Response(
                int(row["step"]),
                key_of(row["prompt"]),
                size_of(row[lengths.column]),
                advantage=float(row["advantage"]),
            )

        collector = Collector(skip_bad=options.skip_bad)
        seen: set[int] = set()
        num_repeated = 0
        for path in files:
            rows = list(load_table(path))
            batch = hash(tuple(f"{key_of(r['prompt'])}\0{r['completion']}" for r in rows))
            if batch in seen:
                num_repeated += 1
                continue
            seen.add(batch)
            collector.add(path, rows, convert)
        notes = [
            "Groups are the completions of a step with the same prompt, so a prompt that is drawn "
            "twice in a step is one group.",
            "TRL keeps the newest generation batch of each log. Steps between two logs are not in "
            "the files, and a step with an evaluation may show completions of the evaluation.",
        ]
        if num_repeated:
            notes.append(f"Left out: {num_repeated} files that repeat the batch of another file.")
        return collector.rollouts(lengths, "prompt", notes)
