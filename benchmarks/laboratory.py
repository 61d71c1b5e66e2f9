"""Compare the laboratory with the live stack: the demo, with the same method, over many seeds.

    python -m recipe.study configs/study/demo.yaml     # the laboratory's runs
    python -m benchmarks.laboratory                    # print the table

The live runs are those of the README's table. Seeds are independent: the two sample differently.
"""

import json
from pathlib import Path
from statistics import fmean, stdev

from scipy import stats

from eval.study_results import accuracies, read_results
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
LEVEL = 0.95


def live() -> list[float]:
    """Return the held-out accuracy at the end of the live runs of plain Balanced Aggregation."""
    # Files of runs with other overrides have a hash behind the seed.
    found = RESULTS.glob("cpu_demo/balanced-s[0-9].json")
    return [json.loads(path.read_text())["val_end"] for path in found]


def laboratory() -> list[float]:
    """Return the same of the laboratory's runs."""
    return [float(accuracies(row)[-1].mean()) for row in read_results(RESULTS / "laboratory")]


def table() -> list[str]:
    """Return both means, and their difference with its interval (Welch)."""
    ends = {"live stack": live(), "laboratory": laboratory()}
    rows = [
        (name, str(len(one)), f"{100 * fmean(one):.1f}", f"{100 * stdev(one):.1f}")
        for name, one in ends.items()
    ]
    test = stats.ttest_ind(ends["laboratory"], ends["live stack"], equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    difference = fmean(ends["laboratory"]) - fmean(ends["live stack"])
    return [
        *markdown_table(("", "seeds", "held-out accuracy, end", "standard deviation"), rows),
        "",
        f"Difference {100 * difference:+.1f} points, 95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}.",
    ]


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    parser = command_parser("benchmarks.laboratory", __doc__)
    add_into(parser, "laboratory")
    given = parser.parse_args()
    with errors_reported():
        show_table(table(), "laboratory", given.into)


if __name__ == "__main__":
    main()
