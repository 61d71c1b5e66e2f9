"""TRL's GRPOTrainer with any aggregation rule (needs `pip install balanced-aggregation[trl]`).

TRL's losses `dapo` and `cispo` add up the tokens of all responses and divide once. They are linear
in the advantage for every weight above 0. So each advantage is multiplied by its response's weight,
and the sum is divided by the number of responses. The weights are made from the whole generation
batch of all processes, so how TRL splits that batch does not matter.
"""

from typing import Any

import torch
from accelerate.utils import gather
from balanced_aggregation import metrics, weights
from trl import GRPOConfig, GRPOTrainer

ADDS_UP_TOKENS = ("dapo", "cispo")


class AggregatedGRPOTrainer(GRPOTrainer):
    """Train with GRPO under an aggregation rule.

    `docs/library.md` has an example.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig,
        *,
        aggregation: str,
        settings: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Make TRL's trainer.

        Args:
            model: as in `trl.GRPOTrainer`.
            reward_funcs: as in `trl.GRPOTrainer`.
            args: as in `trl.GRPOTrainer`.
            aggregation: name of the rule.
            settings: of the rule, such as {"limit": 1024} of `constant`.
            **kwargs: as in `trl.GRPOTrainer`.

        Raises:
            ValueError: the rule, a setting or an argument of TRL does not fit.
        """
        self.aggregation, self.settings = aggregation, settings or {}
        weights(aggregation, [1.0], [0.0], [0], **self.settings)
        if args.loss_type not in ADDS_UP_TOKENS:
            raise ValueError(
                f"loss_type is {args.loss_type!r}, which has an aggregation of its own. Use one of "
                f"{', '.join(ADDS_UP_TOKENS)}, which add up tokens; the rule does the rest"
            )
        if args.beta != 0:
            raise ValueError(
                f"beta is {args.beta:g}, but TRL's KL penalty has no advantage, so no rule would "
                f"weigh it. Use beta=0.0"
            )
        super().__init__(model, reward_funcs, args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Return TRL's batch with weighted advantages, divided by responses instead of tokens."""
        batch = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        local = torch.stack([mask.sum(-1).double(), batch["advantages"].double()])
        length_N, advantage_N = gather(local.T.contiguous()).T.cpu()
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if mode == "train" else self.num_generations_eval
        facts = length_N, advantage_N, torch.arange(len(length_N)) // size
        for name, value in metrics(self.aggregation, *facts, **self.settings).items():
            self._metrics[mode][name].append(value)
        own = self.accelerator.process_index * local.shape[1] + torch.arange(local.shape[1])
        weight_B = weights(self.aggregation, *facts, **self.settings)[own]
        batch["advantages"] = batch["advantages"] * weight_B.to(batch["advantages"])
        batch["num_items_in_batch"] = torch.full_like(batch["num_items_in_batch"], len(length_N))
        return batch
