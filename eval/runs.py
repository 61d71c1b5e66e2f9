"""Print the table of finished runs, one row for each experiment and method.

python -m eval.runs outputs/cpu_demo                    # print it
python -m eval.runs benchmarks/results --into README.md # write it between its marks there
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.tables import markdown_table

HEAD = (
    "experiment",
    "method",
    "seeds",
    "held-out accuracy, start",
    "end",
    "gain in points",
    "minutes",
    "commit",
)


def read_summaries(folder: Path) -> list[dict[str, Any]]:
    """Return every summary below `folder`: `summary.json` of a run, or a committed copy.

    Raises:
        ValueError: the folder has none.
    """
    # A run that was moved aside is named NAME~1, NAME~2, ...
    paths = [path for path in sorted(folder.glob("**/*.json")) if "~" not in path.parent.name]
    summaries = [json.loads(path.read_text()) for path in paths]
    summaries = [summary for summary in summaries if "val_end" in summary]
    if not summaries:
        raise ValueError(f"no run summary below {folder}; a finished run writes summary.json.")
    return summaries


def rows(summaries: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row for each experiment, method and overrides, with means over seeds.

    Raises:
        ValueError: a seed appears twice in a row.
    """
    cells = defaultdict(dict)
    for summary in summaries:
        if summary["val_end"] is None:
            continue
        overrides = " ".join(summary.get("overrides", []))
        key = (summary["experiment"], summary["rule"], overrides)
        if summary["seed"] in cells[key]:
            raise ValueError(f"two runs of {' '.join(key)} have seed {summary['seed']}; keep one.")
        cells[key][summary["seed"]] = summary
    table = []
    for (experiment, rule, overrides), by_seed in sorted(cells.items()):
        runs = list(by_seed.values())
        gains = [100 * (run["val_end"] - run["val_start"]) for run in runs]
        spread = f" ({min(gains):+.1f} to {max(gains):+.1f})" if len(runs) > 1 else ""
        table.append(
            (
                f"{experiment} {overrides}".strip(),
                rule,
                str(len(runs)),
                f"{mean(run['val_start'] for run in runs):.1%}",
                f"{mean(run['val_end'] for run in runs):.1%}",
                f"{mean(gains):+.1f}{spread}",
                f"{mean(run['seconds'] for run in runs) / 60:.1f}",
                ", ".join(sorted({str(run["commit"]) for run in runs})),
            )
        )
    return table


def main() -> None:
    """Print the table, or write it into a file."""
    parser = command_parser("eval.runs", __doc__)
    parser.add_argument("folder", type=Path, help="where to look for summaries")
    add_into(parser, "results")
    arguments = parser.parse_args()
    with errors_reported(OSError, ValueError):
        table = markdown_table(HEAD, rows(read_summaries(arguments.folder)))
        show_table(table, "results", arguments.into)


if __name__ == "__main__":
    main()
