"""DisCO (arXiv:2505.12366) on the driver: groups and verdicts, in complete mini-batches.

`recipe/maths/disco.py` derives the objective, and `losses/disco.py` runs it in the workers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recipe.maths.columns import final_rows, group_numbers, prompt_of
from recipe.maths.disco import DiscoSettings
from recipe.maths.responses import Responses, describe
from recipe.maths.within import varies_within
from recipe.objectives.base import ON_POLICY, Loss, Objective, Step

GROUP_COLUMN, CORRECT_COLUMN = "disco_group", "disco_correct"


class Disco(Objective):
    """Compare the correct with the incorrect responses of each prompt."""

    Settings = DiscoSettings
    has_aggregation = False

    def loss(self) -> Loss:
        """Return the loss, which looks at a whole mini-batch before it is split."""
        from recipe.objectives.losses.disco import DiscoLoss

        return DiscoLoss(self.chosen.settings)

    def order(
        self, keys: Sequence[str], tags: Sequence[dict[str, Any]], ranks: int
    ) -> list[list[int]]:
        """Return balanced rows of each rank such that every mini-batch holds complete groups.

        verl gives each rank a run of rows and cuts it into as many mini-batches as there are.

        Raises:
            ValueError: a sample has several outputs.
            RuntimeError: the groups, of unequal size, do not fill mini-batches.
        """
        if (final_rows(list(keys)) != torch.arange(len(keys))).any():
            raise ValueError(
                "the agent loop returned several outputs of a sample, but DisCO compares responses "
                "of one output. Use an agent loop that returns one, or objective=policy_gradient."
            )
        size = self.mini_batch_rows()
        if len(keys) == size:
            # One mini-batch holds all rows whatever their order, and verl has balanced them.
            return torch.arange(size).view(ranks, -1).tolist()
        from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

        # Rows of padding may go anywhere, so each is a group of its own.
        names = [
            key if tag.get("is_padding", False) else prompt_of(key)
            for key, tag in zip(keys, tags, strict=True)
        ]
        work_N = calculate_workload(torch.tensor([tag["seq_len"] for tag in tags]))
        order: list[list[int]] = [[] for _ in range(ranks)]
        for rows in packed(group_numbers(names), size):
            work: Any = work_N[rows]
            parts: Any = get_seqlen_balanced_partitions(work, ranks, equal_size=True)
            for rank, part in enumerate(parts):
                order[rank] += [rows[place] for place in part]
        return order

    def step(self, rows: Responses) -> Step:
        """Return the group and the verdict of each response."""
        rules = self.chosen.aggregation.rules()
        return Step(columns(rows), describe(rows, rows.length_N > 0, rules, None), rows)

    def before_update(self, num_rows: int) -> dict[str, Any]:
        """Tell the workers whether the old log-probabilities are the current ones."""
        return {ON_POLICY: self.is_on_policy(num_rows)}


def columns(rows: Responses) -> dict[str, Tensor]:
    """Return the verdict and the group of each row; the group is -1 if it is not trained.

    Raises:
        ValueError: two correct, or two incorrect, responses of a group differ in score.
    """
    graded_N = varies_within(rows.score_N, 2 * rows.group_N + rows.correct_N)
    if graded_N.any():
        group = rows.group_N[graded_N][0]
        values = rows.score_N[rows.group_N == group].unique().tolist()
        raise ValueError(
            f"DisCO compares correct with incorrect responses and reads nothing else, but "
            f"responses of one prompt have the scores "
            f"{', '.join(f'{value:.3g}' for value in values)}. Use a reward with two values, or "
            f"objective=policy_gradient."
        )
    group_N = rows.group_N.where(rows.length_N > 0, -1)
    return {GROUP_COLUMN: group_N, CORRECT_COLUMN: rows.correct_N.float()}


def packed(group_N: Tensor, size: int) -> list[list[int]]:
    """Put rows into bins of `size`, each group in one bin: the largest group first.

    Raises:
        RuntimeError: a group fits nowhere.
    """
    bins: list[list[int]] = [[] for _ in range(len(group_N) // size)]
    members: list[list[int]] = [[] for _ in range(int(group_N.max()) + 1)]
    for row, group in enumerate(group_N.tolist()):
        members[group].append(row)
    for group in sorted(members, key=len, reverse=True):
        room = next((rows for rows in bins if len(rows) + len(group) <= size), None)
        if room is None:
            sizes = sorted({len(group) for group in members})
            raise RuntimeError(
                f"groups of {', '.join(map(str, sizes))} responses do not fit whole into "
                f"{len(bins)} mini-batches of {size}, as DisCO needs. Rollouts were lost; the same "
                f"command goes on from the last checkpoint, and with one mini-batch a step "
                f"(actor_rollout_ref.actor.ppo_mini_batch_size=data.train_batch_size) any fit."
            )
        room += group
    return bins
