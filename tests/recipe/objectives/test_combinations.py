"""Check that each rule, advantage and objective makes a step of its own."""

from copy import deepcopy
from itertools import combinations, product

import driver
from actor_step import ROWS, gradient

from recipe.base.paths import CONFIGS
from recipe.config.checks import check_config
from recipe.config.compose import resolve
from recipe.maths.rules import RULES
from recipe.run.folder import method_of


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if path.stem != "none")


def chosen(composed, group, option):
    """Compose the demo with one option of a group, and the rows as one mini-batch."""
    judge = ["step_judge.kind=arithmetic"] if option == "sgpo" else []
    config = composed(
        f"{group}={option}",
        *judge,
        "actor_rollout_ref.actor.ppo_mini_batch_size=1",
        f"actor_rollout_ref.rollout.n={len(ROWS.uids)}",
    )
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
        config.step_judge = deepcopy(advantages[advantage].step_judge)
        configs[rule, advantage, "policy_gradient"] = config
    for objective in set(options("objective")) - {"policy_gradient"}:
        config = chosen(composed, "objective", objective)
        configs[config.aggregation.rule, config.advantage.name, objective] = config
    gradients = {}
    for name, config in configs.items():
        check_config(config)
        put, _ = driver.add_columns(monkeypatch, config, ROWS)
        gradients[name] = gradient(config, put, monkeypatch)
        assert gradients[name].isfinite().all(), name
        assert gradients[name].any(), name
    # Every rule with 13 advantages, BAPO thrice, GTPO twice, and 4 objectives without either.
    assert len(gradients) == len(RULES) * 13 + 3 + 2 + 4
    for one, other in combinations(gradients, 2):
        # The first batch is its own anchor, so these two agree at first.
        same_at_first = {one[1], other[1]} == {"ha_dw", "ha_dw_window"}
        if sum(x != y for x, y in zip(one, other, strict=True)) == 1 and not same_at_first:
            apart = (gradients[one] - gradients[other]).norm() / gradients[one].norm()
            # `constant` and `token_batch` differ in scale. `lambda` starts as `token`, and the
            # rows are one micro-batch.
            same = {one[0], other[0]} in ({"lambda", "token"}, {"token_micro", "token_batch"})
            assert (apart > 1e-4) is not same, (one, other)
    methods = [method_of(config) for config in configs.values()]
    assert len(set(methods)) == len(methods)
