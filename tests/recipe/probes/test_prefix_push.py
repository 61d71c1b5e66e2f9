import pytest
import torch
from batches import Batch, batches
from hypothesis import given

from recipe.maths.diagnostics import prefix_push
from recipe.probes.prefix_push import GTPO, closed_forms
from recipe.probes.stage import rules


@given(batches())
def test_closed_forms_are_the_mean_of_weight_times_advantage(batch):
    for group in batch.group_N.unique():
        length_N, advantage_N, _ = (column[batch.group_N == group] for column in batch)
        if not (advantage_N > 0).any():
            continue
        closed = closed_forms(length_N, advantage_N)
        alone = Batch(length_N, advantage_N, torch.zeros_like(length_N))
        for name, rule in rules(limit=64.0).items():
            pairs = zip(rule(*alone).tolist(), advantage_N.tolist(), strict=True)
            brute = sum(weight * advantage for weight, advantage in pairs) / len(length_N)
            assert closed[name] == pytest.approx(brute, rel=1e-9, abs=1e-12)
            metric = prefix_push(advantage_N, alone.group_N, rule(*alone)).item()
            assert closed[name] == pytest.approx(metric, rel=1e-9, abs=1e-12)
        # GTPO takes a common token twice where A > 0, and not at all where A < 0.
        push = sum(2 * a for a in advantage_N.tolist() if a > 0) / length_N.sum().item()
        assert closed[GTPO] == pytest.approx(push)


@pytest.mark.slow
def test_the_engines_gradient_of_shared_tokens_is_the_closed_form(probe):
    """In float32: the push is what is left when the gradients of 8 rows cancel."""
    found = probe("prefix_push", NUM_SAMPLED=8, NUM_GROUPS=4)
    assert found["largest_deviation"] < 5e-5
    assert {group["prefix"] > 0 for group in found["groups"]} == {True}
    for name, vanishes in (
        ("balanced", False),
        ("sequence", False),
        ("lambda", False),
        ("token, GTPO", False),
        ("token", True),
        ("token_batch", True),
        ("constant", True),
    ):
        measured = [abs(group["rules"][name]["measured"]) for group in found["groups"]]
        assert (max(measured) < 1e-6) == vanishes
        # A prefix that is not pushed has no part in the gradient.
        assert (found["share"][name] < 1e-5) == vanishes
