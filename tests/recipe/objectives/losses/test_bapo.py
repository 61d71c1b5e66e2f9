"""BAPO's loss off-policy, beside the paper's objective written token by token."""

import math

import driver
import pytest
import torch
from actor_step import NOW, OLD, ROWS, gradient

from recipe.base.errors import UserError
from recipe.config.checks import check_config
from recipe.config.compose import resolve
from recipe.objectives.policy_gradient import WEIGHT_COLUMN


def config_of(composed, *overrides):
    bounds = [f"objective.bapo.upper_{key}" for key in ("start=1.02", "end=1.3", "step=0.01")]
    config = composed("objective=bapo", *bounds, *overrides)
    resolve(config)
    return config


def rows_of(monkeypatch, config):
    """Advantage, weight, ratio, probability and length of each response."""
    put, _ = driver.add_columns(monkeypatch, config, ROWS)
    columns = driver.batch(ROWS) | put
    advantages = [row[0].item() if len(row) else 0.0 for row in columns["advantages"].unbind()]
    ratios = [math.exp(now - old) for now, old in zip(NOW, OLD, strict=True)]
    facts = advantages, put[WEIGHT_COLUMN].tolist(), ratios, map(math.exp, OLD), ROWS.lengths
    return put, list(zip(*facts, strict=True))


def bounds(rows, measure, s):
    def share(low, high):
        pos = neg = 0.0
        for a, w, r, p, n in rows:
            m = {"tokens": 1, "probability": p, "weights": w}[measure]
            pos += n * m * min(r, high) * max(a, 0)
            neg += n * m * max(r, low) * max(-a, 0)
        return pos / (pos + neg)

    low, high = s.lower_start, s.upper_start
    while share(low, high) < s.target and low < s.lower_end - 1e-9:
        low = min(low + s.lower_step, s.lower_end)
    while share(low, high) < s.target and high < s.upper_end - 1e-9:
        high = min(high + s.upper_step, s.upper_end)
    return low, high


def slope(a, w, r, low, high, num):
    """Of one token's loss by its log-probability, with PPO's bound for A < 0 at a ratio of 3."""
    if (a > 0 and r > high) or (a < 0 and (r < low or r > 3)):
        return 0.0
    return -w * a * r / num


@pytest.mark.parametrize("measure", ["tokens", "probability", "weights"])
@pytest.mark.parametrize("target", [0.3, 0.45, 0.9])
def test_off_policy_the_gradient_is_that_of_the_paper(monkeypatch, composed, measure, target):
    config = config_of(
        composed, f"objective.bapo.measure={measure}", f"objective.bapo.target={target}"
    )
    put, rows = rows_of(monkeypatch, config)
    low, high = bounds(rows, measure, config.objective.bapo)
    expected = []
    for a, w, r, _, n in rows:
        # One position of the prompt before, and one after the last token.
        expected += [0.0, *[slope(a, w, r, low, high, len(rows))] * n, 0.0]
    found = gradient(config, put, monkeypatch)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_its_bounds_make_another_step_than_fixed_ones(monkeypatch, composed):
    found = {}
    for target in (0.01, 0.9):
        config = config_of(composed, f"objective.bapo.target={target}")
        put, _ = rows_of(monkeypatch, config)
        found[target] = gradient(config, put, monkeypatch)
    assert (found[0.01] - found[0.9]).norm() > 0.01 * found[0.9].norm()


def test_another_loss_beside_it_is_refused(composed):
    config = config_of(composed, "actor_rollout_ref.actor.policy_loss.loss_mode=gspo")
    with pytest.raises(UserError, match=r"loss_mode is gspo and does not go with objective=bapo"):
        check_config(config)
