"""Measure how far `token_micro` is from `token_batch`, and how that depends on the token budget.

    python -m benchmarks.token_micro measure    # sample one batch, about 3 minutes
    python -m benchmarks.token_micro            # print the table

The batch is one of the demo's small model; verl's packing is that of one rank.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.files import write_atomically
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.config.compose import composed, resolve
from recipe.config.settings import Settings
from recipe.maths.rules import MICRO, RULES
from recipe.tasks import embedded
from recipe.training.alone import prepare_verl
from recipe.training.packing import micro_batches

RESULT = Path(__file__).parent / "results" / "token_micro" / "result.json"
PROMPTS, GROUP, SEED = 64, 8, 0
BUDGETS = (128, 256, 512, 1024, 4096, 65536)
OVERRIDES = [
    "+experiment=cpu_demo",
    "aggregation=token_batch",
    f"data.train_batch_size={PROMPTS}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
    f"actor_rollout_ref.rollout.n={GROUP}",
]


def measure() -> dict[str, Any]:
    """Return the weights and the gradient of both rules on one batch, by token budget."""
    config = composed(OVERRIDES)
    resolve(config)
    embedded.make(config.data.task)
    prepare_verl(config)
    from recipe.objectives.policy_gradient import WEIGHT_COLUMN
    from recipe.study.laboratory import Laboratory, as_batch, loss_of

    laboratory = Laboratory(config)
    torch.manual_seed(SEED)
    data, rows = as_batch(laboratory.sampler.sample(laboratory.rows[:PROMPTS], GROUP), config)
    loss = Settings.of(config).begin(config).loss()

    def gradient(weight_N: Tensor) -> Tensor:
        data[WEIGHT_COLUMN] = weight_N.float()
        laboratory.model.zero_grad()
        loss_of(loss, laboratory.model, data)[0].backward()
        return torch.cat([p.grad.flatten() for p in laboratory.model.parameters()]).double()

    columns = rows.length_N, rows.advantage_N, rows.group_N
    even_N = RULES["token_batch"](*columns)
    even, num_tokens_N = gradient(even_N), data["input_ids"].offsets().diff()
    found = []
    for budget in BUDGETS:
        config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu = budget
        micro_N = micro_batches(num_tokens_N, 1, config)
        weight_N = RULES[MICRO](*columns, micro_N=micro_N)
        other = gradient(weight_N)
        found.append(
            {
                "budget": budget,
                "micro_batches": len(micro_N.unique()),
                "weights": ((weight_N / even_N - 1) ** 2).mean().sqrt().item(),
                "gradient": ((other - even).norm() / even.norm()).item(),
                "cosine": torch.cosine_similarity(other, even, dim=0).item(),
            }
        )
    sequence = gradient(RULES["sequence"](*columns))
    return {
        "responses": len(rows.length_N),
        "length_mean": rows.length_N.double().mean().item(),
        "length_max": int(rows.length_N.max()),
        "longest": int(num_tokens_N.max()),
        "sequence_gradient": ((sequence - even).norm() / even.norm()).item(),
        "budgets": found,
        "overrides": OVERRIDES,
    }


def table() -> list[str]:
    """Return the distances by token budget."""
    result = json.loads(RESULT.read_text())
    rows = [
        (
            str(row["budget"]),
            str(row["micro_batches"]),
            f"{100 * row['weights']:.1f} %",
            f"{100 * row['gradient']:.1f} %",
            f"{row['cosine']:.4f}",
        )
        for row in result["budgets"]
    ]
    header = ("tokens a micro-batch", "micro-batches", "weights", "gradient", "cosine")
    return [
        *markdown_table(header, rows),
        "",
        f"{result['responses']} responses of {result['length_mean']:.0f} tokens on average, at "
        f"most {result['length_max']}; the longest row has {result['longest']} with its prompt. "
        f"For comparison, the gradient of `sequence` is "
        f"{100 * result['sequence_gradient']:.1f} % from that of `token_batch`.",
    ]


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    parser = command_parser("benchmarks.token_micro", __doc__)
    parser.add_argument("verb", nargs="?", choices=["measure"], help="without: print the table")
    add_into(parser, "token_micro")
    given = parser.parse_args()
    with errors_reported():
        if given.verb:
            result = measure() | {"seed": SEED} | provenance("benchmarks.token_micro measure")
            RESULT.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(RESULT, json.dumps(result, indent=2) + "\n")
            print(f"wrote {RESULT}")
        show_table(table(), "token_micro", given.into)


if __name__ == "__main__":
    main()
