"""Print how many GPU-hours an experiment takes.

    python -m recipe.cost +experiment=qwen25_math_7b_polaris [cluster=gpu8x2] [KEY=VALUE...]
    python -m recipe.cost table [--into FILE]      # the paper's runs, with their memory

The estimate is worked out from the model's shape (`recipe/estimate/hours.py`), not measured.
"""

import sys

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.tables import markdown_table
from recipe.config.compose import composed
from recipe.config.estimated import estimated
from recipe.estimate.hours import gpu_hours
from recipe.estimate.memory import GIB, memory

# The runs of the paper.
MODELS = ("qwen25_math_7b", "qwen3_1_7b")
CLUSTERS = ("gpu8", "gpu8x2", "gpu8x4")


def table() -> list[str]:
    """Return memory and GPU-hours of the paper's models on each cluster, as lines of Markdown."""
    rows = []
    for model in MODELS:
        for cluster in CLUSTERS:
            config = composed([f"model={model}", "training=paper", f"cluster={cluster}"])
            found, cost = memory(config), gpu_hours(config)
            rows.append(
                [
                    f"`{model}`",
                    f"`{cluster}`",
                    *(
                        f"{sum(parts.values()) / GIB:.0f}"
                        for parts in (found.update, found.rollout)
                    ),
                    str(found.full_sequences),
                    f"{cost.hours:.0f}",
                    f"{cost.total:.0f}",
                ]
            )
    head = ["model", "cluster", "update, GiB", "rollout, GiB", "sequences", "hours", "GPU-hours"]
    return markdown_table(head, rows)


def main() -> None:
    """Print the estimate and what it assumes, or the table, or keep it in a document."""
    with errors_reported():
        if sys.argv[1:2] == ["table"]:
            command = command_parser("recipe.cost table", __doc__)
            add_into(command, "runs")
            show_table(table(), "runs", command.parse_args(sys.argv[2:]).into)
            return
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(__doc__)
            return
        found = gpu_hours(estimated(sys.argv[1:]))
    print(
        f"about {found.total:.0f} GPU-hours: {found.hours:.0f} hours on {found.num_gpus} GPUs, "
        f"{found.num_steps} steps of {found.rollout_seconds:.0f} s rollout and "
        f"{found.training_seconds:.0f} s training\n{found.assumptions}"
    )


if __name__ == "__main__":
    main()
