"""Print whether an experiment fits into the memory of its GPUs.

    python -m recipe.memory +experiment=qwen25_math_7b_polaris [cluster=gpu8x2] [KEY=VALUE...]

The estimate is worked out from the model's shape (`recipe/estimate/memory.py`), not measured.
"""

import sys

from recipe.base.command import errors_reported
from recipe.config.estimated import estimated
from recipe.estimate.memory import memory, table


def main() -> None:
    """Print the table and whether it fits."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with errors_reported():
        config = estimated(sys.argv[1:])
        found, lines = memory(config), table(config)
    print("\n".join(lines))
    print(
        f"\nvLLM's KV cache holds {found.kv_tokens} tokens, {found.full_sequences} sequences at "
        f"their limits. A GPU has {config.estimate.gpu_gib} GiB."
    )
    if found.problems:
        sys.exit("does not fit: " + ". ".join(found.problems) + ".")
    print("It fits.")


if __name__ == "__main__":
    main()
