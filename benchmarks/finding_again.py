"""Measure two cells of the finding again, and compare them with the kept ones.

    python -m benchmarks.finding_again     # less than 5 minutes on two cores

The same machine gives the same numbers; another one gives numbers within the intervals.
"""

import json
import os
import shutil

from benchmarks.finding import BATCH, GROUP, RESULTS, TASKS, WORK, cell_path, measure
from benchmarks.finding_tables import setting
from recipe.base.command import command_parser, errors_reported
from recipe.base.tables import markdown_table

KEY = "gain_own_norm/adamw"


def main() -> None:
    """Measure the first policy of both tasks with the first seed, and print the gains."""
    command = command_parser("benchmarks.finding_again", __doc__)
    jobs = min(2, os.cpu_count() or 1)
    command.add_argument("--jobs", type=int, default=jobs, help="cells at a time, one core each")
    given = command.parse_args()
    cells = [(task, "start", 0) for task in TASKS]
    out = WORK / "again"
    shutil.rmtree(out, ignore_errors=True)
    with errors_reported(stopped="stopped"):
        measure(cells, given.jobs, out)
    rows = []
    for cell in cells:
        kept, again = (
            setting(json.loads(cell_path(*cell, folder).read_text()), GROUP, BATCH)["rules"]
            for folder in (RESULTS, out)
        )
        for rule, measures in kept.items():
            before, now = measures[KEY], again[rule][KEY]
            rows.append(
                (
                    cell[0],
                    f"`{rule}`",
                    f"{before['value']:.3f} +- {before['half_width']:.3f}",
                    f"{now['value']:.3f} +- {now['half_width']:.3f}",
                )
            )
    print("\n".join(markdown_table(("task, start", "rule", "gain, kept", "gain, again"), rows)))


if __name__ == "__main__":
    main()
