"""Print the committed results of the probes in one table.

    python -m benchmarks.probes [--into README.md]

Reads benchmarks/results/probes/NAME/result.json, which `python -m recipe.probe NAME` wrote.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "probes"
HEAD = ("probe", "quantity", "predicted", "measured")


def prefix_push(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the mean push under each rule."""
    for name in result["share"]:
        of_rule = [group["rules"][name] for group in result["groups"]]
        push = (1e3 * fmean(one[key] for one in of_rule) for key in ("predicted", "measured"))
        yield f"W in 1/1000, `{name}`", *(f"{value:z.4f}" for value in push)


def reward_scale(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the distance between the updates at the two reward scales at the last step."""
    for name, found in result["settings"].items():
        apart = (found[key][-1] for key in ("predicted", "measured"))
        yield f"distance of the updates, {name}", *(f"{value:.6f}" for value in apart)


def momentum(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the size of the first and the last flat update."""
    for arm in result["arms"]:
        betas = "betas {:g}, {:g}".format(*arm["betas"])
        for k in (0, len(arm["measured"]) - 1):
            sizes = (arm[key][k] for key in ("predicted", "measured"))
            yield f"C, {betas}, k = {k}", *(f"{value:.6f}" for value in sizes)


def loss_value(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the loss of the batch where it is largest."""
    for name in result["correlation"]:
        of_rule = [batch["rules"][name] for batch in result["batches"]]
        largest = max(of_rule, key=lambda one: abs(one["closed"]))
        yield (
            f"largest loss of {len(of_rule)} batches, `{name}`",
            *(f"{largest[key]:z.6f}" for key in ("closed", "measured")),
        )


PROBES = {probe.__name__: probe for probe in (prefix_push, reward_scale, momentum, loss_value)}


def table(results: Path = RESULTS) -> list[str]:
    """Return a Markdown table of what each probe predicted and measured."""
    rows: list[tuple[str, ...]] = []
    for name, quantities in PROBES.items():
        result = json.loads((results / name / "result.json").read_text())
        rows += [(f"`{name}`", *row) for row in quantities(result)]
    return markdown_table(HEAD, rows)


def main() -> None:
    """Print the table, or put it into a file between its marks."""
    parser = command_parser("benchmarks.probes", __doc__)
    add_into(parser, "probes")
    with errors_reported():
        show_table(table(), "probes", parser.parse_args().into)


if __name__ == "__main__":
    main()
