"""The actor's part of a step: the gradient of a run's loss on the driver's batch."""

from types import SimpleNamespace

import driver
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from recipe.config.settings import Settings
from recipe.objectives.losses import bapo as bapo_loss
from recipe.objectives.losses import disco as disco_loss

PROMPT = 2
ONE_RANK = SimpleNamespace(get_data_parallel_size=lambda: 1, get_data_parallel_rank=lambda: 0)
ROWS = driver.WIDE
# Log-probs of every token of a row, before the step and now: off-policy, each row otherwise.
OLD = [-0.1 * (row + 1) for row in range(len(ROWS.uids))]
NOW = [old + 0.02 * row for row, old in enumerate(OLD)]


def gradient(config, put, monkeypatch):
    """Return the gradient of the loss by the log-probs, computed as in the actor."""
    columns = driver.batch(ROWS) | put
    num = len(ROWS.lengths)
    old, now = (
        driver.nested([[value] * n for value, n in zip(values, ROWS.lengths, strict=True)])
        for values in (OLD, NOW)
    )
    data = TensorDict(
        {
            "prompts": driver.nested([[1] * PROMPT] * num),
            "responses": columns["responses"],
            "response_mask": columns["response_mask"],
            "old_log_probs": old,
            "advantages": columns["advantages"],
            **put,
        },
        batch_size=num,
    )
    counts = {"dp_size": 1, "batch_num_tokens": 50, "global_batch_size": num}
    tu.assign_non_tensor(data, **counts)
    # Outputs cover the prompt, and stand one token to the left.
    leaves = [torch.cat([torch.zeros(PROMPT - 1), row, torch.zeros(1)]) for row in now.unbind()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output = {"log_probs": torch.nested.as_nested_tensor(leaves, layout=torch.jagged)}
    for module in (bapo_loss, disco_loss):
        monkeypatch.setattr(module, "look", lambda *_: now.to_padded_tensor(0.0))
    loss_fn = Settings.of(config).begin(config).loss()
    loss_fn.prepare(ONE_RANK, data, {})
    loss, _ = loss_fn(output, data)
    loss.backward()
    return torch.cat([leaf.grad for leaf in leaves])
