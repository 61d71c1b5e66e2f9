"""GTPO's step off-policy, beside the objective written token by token."""

import math

import driver
import pytest
import torch
from actor_step import NOW, OLD, ROWS, gradient

from recipe.config.compose import resolve
from recipe.objectives.policy_gradient import WEIGHT_COLUMN

# In the driver's batch token t of every response is t, so responses of two signs begin alike until
# the shorter sign's longest response ends. No two of them end alike but those of equal length.


def first_run(row):
    uid, sign = ROWS.uids[row], math.copysign(1, ROWS.advantages[row])
    others = [
        ROWS.lengths[i]
        for i, other in enumerate(ROWS.uids)
        if other == uid and ROWS.advantages[i] * sign < 0
    ]
    return min(ROWS.lengths[row], max(others, default=0))


def last_run(row):
    uid, sign, length = ROWS.uids[row], math.copysign(1, ROWS.advantages[row]), ROWS.lengths[row]
    alike = [
        i
        for i, other in enumerate(ROWS.uids)
        if other == uid and ROWS.advantages[i] * sign < 0 and ROWS.lengths[i] == length
    ]
    return length if alike else 0


@pytest.mark.parametrize("name", ["gtpo", "gtpo_code"])
def test_off_policy_the_gradient_is_that_of_the_paper(monkeypatch, composed, name):
    config = composed(f"objective={name}", "aggregation=sequence")
    resolve(config)
    put, metrics = driver.add_columns(monkeypatch, config, ROWS)
    plain = composed("aggregation=sequence")
    resolve(plain)
    weights = driver.add_columns(monkeypatch, plain, ROWS)[0][WEIGHT_COLUMN].tolist()
    columns = driver.batch(ROWS)
    expected, num_conflict, num_tokens = [], 0, 0
    for row, length in enumerate(ROWS.lengths):
        a, ratio = columns["advantages"].unbind()[row][0].item(), math.exp(NOW[row] - OLD[row])
        is_mixed = first_run(row) > 0
        weight = weights[row]
        if name == "gtpo_code" and is_mixed:
            weight /= min(length, first_run(row) + last_run(row))
        factors = [1.0] * length
        if is_mixed:
            for t in range(length):
                in_first, in_last = t < first_run(row), t >= length - last_run(row)
                times = in_first + in_last if name == "gtpo_code" else in_first or in_last
                factors[t] = (2.0 if a > 0 else 0.0) ** times
            num_conflict += min(length, first_run(row) + last_run(row))
            num_tokens += length
        clipped = a > 0 and ratio > 1.2
        slope = 0.0 if clipped else -a * ratio * weight / len(ROWS.lengths)
        expected += [0.0, *[slope * factor for factor in factors], 0.0]
    found = gradient(config, put, monkeypatch)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-7)
    assert metrics["aggregation/conflict_share"] == pytest.approx(num_conflict / num_tokens)


def test_its_step_differs_from_that_of_the_plain_rule(monkeypatch, composed):
    found = {}
    for name in ("policy_gradient", "gtpo", "gtpo_code"):
        config = composed(f"objective={name}", "aggregation=sequence")
        resolve(config)
        found[name] = gradient(
            config, driver.add_columns(monkeypatch, config, ROWS)[0], monkeypatch
        )
    for one, other in (("policy_gradient", "gtpo"), ("gtpo", "gtpo_code")):
        assert (found[one] - found[other]).norm() > 0.1 * found[one].norm()
