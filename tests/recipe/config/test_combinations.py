"""Every rule with every advantage and objective: it makes a step, or is refused before training."""

from itertools import combinations as combinations_of
from pathlib import Path
from types import SimpleNamespace

import driver
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass

from recipe.base.tables import between_marks
from recipe.config.combinations import Combination, combinations, config_of, refusal, table
from recipe.config.compose import composed, resolve
from recipe.config.methods import disco_of
from recipe.maths.rules import RULES
from recipe.objectives import disco_loss
from recipe.objectives.disco_loss import DiscoLoss
from recipe.objectives.weighted_loss import for_worker, weighted_ppo_loss
from recipe.run.folder import differing_keys, method_of

PROMPT = 2
ONE_RANK = SimpleNamespace(get_data_parallel_size=lambda: 1, get_data_parallel_rank=lambda: 0)
ROWS = driver.WIDE
# Log-probs of every token of a row, before the step and now: off-policy, each row otherwise.
OLD = [-0.1 * (row + 1) for row in range(len(ROWS.uids))]
NOW = [old + 0.02 * row for row, old in enumerate(OLD)]


def gradient(config, put, monkeypatch):
    """Of the loss by the log-probs of the driver's batch, in the actor's way."""
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
            **{name: column for name, column in put.items() if column.dim() == 1},
        },
        batch_size=num,
    )
    counts = {"dp_size": 1, "batch_num_tokens": 50, "global_batch_size": num}
    tu.assign_non_tensor(data, **counts)
    # Outputs cover the prompt, and stand one token to the left.
    leaves = [torch.cat([torch.zeros(PROMPT - 1), row, torch.zeros(1)]) for row in now.unbind()]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output = {"log_probs": torch.nested.as_nested_tensor(leaves, layout=torch.jagged)}
    if disco := disco_of(config):
        monkeypatch.setattr(disco_loss, "look", lambda *_: now.to_padded_tensor(0.0))
        loss_fn = DiscoLoss(disco)
        loss_fn.prepare(ONE_RANK, data, {})
        loss, _ = loss_fn(output, data)
    else:
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        loss, _ = weighted_ppo_loss(for_worker(actor), output, data)
    loss.backward()
    return torch.cat([leaf.grad for leaf in leaves])


def test_every_combination_makes_a_step_or_is_refused_and_the_readme_says_which(monkeypatch):
    refusals = {combination: refusal(combination) for combination in combinations()}
    gradients = {}
    for combination, reason in refusals.items():
        if reason is None:
            config = config_of(combination)
            put, _ = driver.add_columns(monkeypatch, config, ROWS)
            gradients[combination] = gradient(config, put, monkeypatch)
    for combination, found in gradients.items():
        assert found.isfinite().all(), combination
        assert found.any(), combination
    # Every rule with 6 advantages, and 4 objectives that have neither.
    assert len(gradients) == len(RULES) * 6 + 4
    # No two objectives are one, nor two rules, nor two advantages but where they agree at first:
    # the first batch is its own anchor.
    for one, other in combinations_of(gradients, 2):
        same_at_first = {one.advantage, other.advantage} == {"ha_dw", "ha_dw_window"}
        if sum(x != y for x, y in zip(one, other, strict=True)) == 1 and not same_at_first:
            apart = (gradients[one] - gradients[other]).norm() / gradients[one].norm()
            # `constant` and `token_batch` differ in scale, `lambda` starts as `token`.
            is_token = {one.aggregation, other.aggregation} == {"lambda", "token"}
            assert (apart > 1e-4) is not is_token, (one, other)
    arms = [method_of(config_of(combination)) for combination in gradients]
    assert len(set(arms)) == len(arms)
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert between_marks(readme, "combinations", table(refusals)) == readme


@pytest.mark.parametrize(
    "combination",
    [
        Combination("constant", "gdpo_token", "policy_gradient"),
        Combination("lambda", "ha_dw_code", "policy_gradient"),
        Combination("none", "none", "discob_lratio"),
        Combination("token", "none", "disco_logl"),
    ],
)
def test_a_combination_is_what_its_command_line_composes(combination):
    config = composed(combination.overrides)
    resolve(config)
    assert differing_keys(OmegaConf.create(config), config_of(combination)) == []
