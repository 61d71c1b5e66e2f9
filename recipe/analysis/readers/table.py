"""Read any table whose columns the user names with `--columns`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.analysis.readers.tables import SUFFIXES, column_names, key_of, load_table, text_of
from recipe.analysis.rollouts import Collector, Lengths, Options, Response, Rollouts
from recipe.analysis.token_counts import text_lengths
from recipe.base.errors import UserError

ROLES = ("prompt", "response", "reward", "length", "group", "advantage", "step")


class Table:
    """Read tables of any origin."""

    name = "table"
    writes = "*.parquet, *.csv, *.jsonl or *.json, with --columns"
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return the tables of a folder, numbered files in order."""
        found = [path for path in folder.iterdir() if path.suffix in SUFFIXES]
        return sorted(found, key=lambda file: (len(file.stem), file.stem))

    def detects(self, path: Path) -> bool:
        """Return False: only the user knows which columns mean what."""
        return False

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read the columns that are named.

        Raises:
            UserError: a column is not named or not there, or a row cannot be used.
        """
        present, columns = column_names(files[0]), dict(options.columns)
        if "step" in present:
            columns.setdefault("step", "step")
        check(columns, present, files[0])
        lengths = chosen_lengths(columns, present, options)
        grouping = columns["group"] if "group" in columns else columns["prompt"]
        collector = Collector(skip_bad=options.skip_bad)
        for number, path in enumerate(files, start=1):

            def convert(row: Mapping[str, Any], default_step: int = number) -> Iterator[Response]:
                step = int(row[columns["step"]]) if "step" in columns else default_step
                size = row[lengths.column]
                advantage = row[columns["advantage"]] if "advantage" in columns else None
                yield Response(
                    step,
                    key_of(row[grouping]),
                    text_of(size) if lengths.of_texts else float(size),
                    float(row[columns["reward"]]) if "reward" in columns else float("nan"),
                    None if advantage is None else float(advantage),
                )

            collector.add(path, load_table(path), convert)
        notes = []
        if "step" not in columns:
            notes.append(
                "No column is named as step: every file is taken for the responses of one step, "
                "in the order of the files."
            )
        if "group" not in columns:
            notes.append("Groups are the responses of a step with the same prompt.")
        return collector.rollouts(lengths, f"the column `{grouping}`", notes)


def check(columns: Mapping[str, str], present: Sequence[str], path: Path) -> None:
    """Check that the columns needed are named, and that those named are there.

    Raises:
        UserError: some are not.
    """
    needs = [("reward", "advantage"), ("prompt", "group")]
    missing = [" or ".join(pair) for pair in needs if not any(role in columns for role in pair)]
    if missing:
        raise UserError(
            f"--columns names {', '.join(columns) or 'nothing'}, but not "
            f"{' and not '.join(missing)}. Name it, as in prompt=NAME,response=NAME,reward=NAME; "
            f"{path} has {', '.join(present) or 'no columns'}."
        )
    absent = [f"{role}={name}" for role, name in columns.items() if name not in present]
    if absent:
        raise UserError(
            f"--columns names {', '.join(absent)}, but {path} has "
            f"{', '.join(present) or 'no columns'}. Name one of these."
        )


def chosen_lengths(columns: Mapping[str, str], present: Sequence[str], options: Options) -> Lengths:
    """Return the lengths of the column that is named as length, or of the response's text.

    Raises:
        UserError: neither can be had.
    """
    if "length" in columns:
        return Lengths(columns["length"], f"tokens, from the column `{columns['length']}`")
    if "response" not in columns and options.length_column is None:
        raise UserError(
            f"--columns names {', '.join(columns)}, but neither length nor response. Name a column "
            f"of token counts (length=NAME), or the texts (response=NAME) with --tokenizer FOLDER."
        )
    return text_lengths(present, columns.get("response", ""), options)


def parse_columns(given: str) -> dict[str, str]:
    """Return the name of the column for each role of `role=name,role=name`.

    Raises:
        UserError: a part is no such pair.
    """
    columns = {}
    for part in given.split(","):
        role, sign, name = part.strip().partition("=")
        if role not in ROLES or not sign or not name:
            raise UserError(
                f"--columns has {part.strip()!r}, but takes pairs ROLE=NAME with commas between "
                f"them. The roles are {', '.join(ROLES)}."
            )
        columns[role] = name
    return columns
