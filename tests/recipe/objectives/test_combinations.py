"""Check that each rule, advantage and objective makes a step of its own."""

from copy import deepcopy
from itertools import combinations, product
from types import SimpleNamespace

import driver
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from recipe.base.paths import CONFIGS
from recipe.config.checks import check_config
from recipe.config.compose import resolve
from recipe.config.settings import Settings
from recipe.maths.rules import RULES
from recipe.objectives.losses import disco as disco_loss
from recipe.run.folder import method_of

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
    monkeypatch.setattr(disco_loss, "look", lambda *_: now.to_padded_tensor(0.0))
    loss_fn = Settings.of(config).begin(config).loss()
    loss_fn.prepare(ONE_RANK, data, {})
    loss, _ = loss_fn(output, data)
    loss.backward()
    return torch.cat([leaf.grad for leaf in leaves])


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "none")


def chosen(composed, group, option):
    """Compose the demo with one option of a group."""
    config = composed(f"{group}={option}")
    resolve(config)
    return config


def test_every_rule_goes_with_every_advantage_and_each_makes_another_step(monkeypatch, composed):
    """Compare the gradients of any two combinations that differ in one option."""
    rules = {name: chosen(composed, "aggregation", name) for name in options("aggregation")}
    advantages = {name: chosen(composed, "advantage", name) for name in options("advantage")}
    configs = {}
    for rule, advantage in product(rules, advantages):
        config = deepcopy(rules[rule])
        config.advantage = deepcopy(advantages[advantage].advantage)
        configs[rule, advantage, "policy_gradient"] = config
    for objective in set(options("objective")) - {"policy_gradient"}:
        configs["none", "none", objective] = chosen(composed, "objective", objective)
    gradients = {}
    for name, config in configs.items():
        check_config(config)
        put, _ = driver.add_columns(monkeypatch, config, ROWS)
        gradients[name] = gradient(config, put, monkeypatch)
        assert gradients[name].isfinite().all(), name
        assert gradients[name].any(), name
    # Every rule with 6 advantages, and 4 objectives that have neither.
    assert len(gradients) == len(RULES) * 6 + 4
    for one, other in combinations(gradients, 2):
        # The first batch is its own anchor, so these two agree at first.
        same_at_first = {one[1], other[1]} == {"ha_dw", "ha_dw_window"}
        if sum(x != y for x, y in zip(one, other, strict=True)) == 1 and not same_at_first:
            apart = (gradients[one] - gradients[other]).norm() / gradients[one].norm()
            # `constant` and `token_batch` differ in scale, and `lambda` starts as `token`.
            is_token = {one[0], other[0]} == {"lambda", "token"}
            assert (apart > 1e-4) is not is_token, (one, other)
    methods = [method_of(config) for config in configs.values()]
    assert len(set(methods)) == len(methods)
