import json
from functools import partial
from pathlib import Path

import pytest
import torch
from batches import Batch, batches, fixed_batch, token_columns
from hypothesis import given
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import agg_loss

from recipe.maths.rules import (
    MICRO,
    RULES,
    lambda_weights,
    over_all_rows,
    rule,
    token_micro_weights,
    value_and_slope,
    vl_norm_weights,
    with_limit,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "rules.json"
LIMIT, EXPONENT = 64.0, -1.5


def in_micro_batches(length_N, advantage_N, group_N):
    """`token_micro` in three micro-batches, made so that they move with the rows."""
    return token_micro_weights(length_N, advantage_N, group_N, micro_N=length_N % 3)


BOUND = with_limit(LIMIT) | {
    "lambda": partial(lambda_weights, exponent=EXPONENT),
    MICRO: in_micro_batches,
}
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def weighted_loss(weight_N, loss_NT, mask_NT):
    return (weight_N[:, None] * mask_NT * loss_NT).sum() / len(weight_N)


def surrogate(columns, clip=0.2):
    """The clipped surrogate of PPO, token by token, written from its definition."""
    ratio = (columns["log_prob"] - columns["old_log_prob"]).exp()
    advantage = columns["advantages"]
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def naive_loss(name: str, batch: Batch, loss_NT, mask_NT):
    """Each rule from the formula of its paper, group by group, with no weights."""
    masked = loss_NT * mask_NT
    if name == "sequence":
        return (masked.sum(1) / mask_NT.sum(1)).mean()
    if name == "constant":
        return (masked.sum(1) / LIMIT).mean()
    if name == "token_batch":
        return masked.sum() / mask_NT.sum()
    if name == "vl_norm":
        share = [float(length) ** -0.75 for length in batch.length_N]
        parts = zip(share, masked.sum(1), strict=True)
        return sum(one * part for one, part in parts) / sum(share) / LIMIT
    total = 0.0
    if name == MICRO:
        # verl once: the token mean of a micro-batch, times its share of the responses.
        for micro in range(3):
            rows = batch.length_N % 3 == micro
            if rows.any():
                total += rows.sum() * masked[rows].sum() / mask_NT[rows].sum()
    if name.startswith("balanced_"):
        for sign in (-1, 0, 1):
            side = batch.advantage_N.sign() == sign
            if side.any():
                size = batch.advantage_N[side].abs()
                if name != "balanced_batch_weighted" or sign == 0:
                    size = torch.ones_like(size)
                length = (size * batch.length_N[side]).sum() / size.sum()
                if name == "balanced_square":
                    mean = batch.length_N.double().mean()
                    length = batch.length_N[side].double().square().mean() / mean
                total += masked[side].sum() / length
        return total / len(loss_NT)
    for group in batch.group_N.unique():
        rows = batch.group_N == group
        if name == "lambda":
            length = batch.length_N[rows].double()
            deviation = length.std(unbiased=False)
            z = (length - length.mean()) / deviation if deviation > 0 else 0 * length
            factor = len(length) * torch.softmax((1 + z / 9) ** EXPONENT, 0)
            total += rows.sum() * (factor * masked[rows].sum(1)).sum() / length.sum()
        if name == "token":
            total += rows.sum() * masked[rows].sum() / mask_NT[rows].sum()
        if name == "balanced":
            for sign in (-1, 0, 1):
                side = rows & (batch.advantage_N.sign() == sign)
                if side.any():
                    total += side.sum() * masked[side].sum() / mask_NT[side].sum()
    return total / len(loss_NT)


@given(batches(rewards=st.sampled_from([0.0, 0.5, 1.0])))
@pytest.mark.parametrize("name", sorted(RULES))
def test_weights_give_the_loss_of_the_paper_formula(name, batch):
    columns = token_columns(batch)
    loss_NT, mask_NT = surrogate(columns), columns["response_mask"]
    found = weighted_loss(BOUND[name](*batch), loss_NT, mask_NT)
    close(found, naive_loss(name, batch, loss_NT, mask_NT))


@given(batches(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", sorted(RULES))
def test_no_rule_depends_on_row_order(name, batch, random):
    order = list(range(len(batch.length_N)))
    random.shuffle(order)
    close(BOUND[name](*batch)[order], BOUND[name](*(column[order] for column in batch)))


@given(batches(equal_lengths=True))
def test_with_equal_lengths_all_rules_without_a_limit_agree(batch):
    expected = 1.0 / batch.length_N.double()
    for name in set(RULES) - {"constant", "vl_norm"}:
        close(RULES[name](*batch), expected)


@given(batches(rewards=st.sampled_from([0.0, 0.5, 1.0])))
def test_balanced_gives_each_sign_the_token_mass_of_its_count(batch):
    mass_N = RULES["balanced"](*batch) * batch.length_N
    for group in batch.group_N.unique():
        for sign in (-1, 0, 1):
            side = (batch.group_N == group) & (batch.advantage_N.sign() == sign)
            close(mass_N[side].sum(), side.sum().double())


def test_an_advantage_of_exactly_zero_is_a_class_of_its_own_under_balanced():
    weights = RULES["balanced"](*fixed_batch())[4:8]
    close(weights, torch.tensor([1 / 3, 1 / 7, 1 / 4, 1 / 4], dtype=torch.double))


@given(batches(), st.floats(-3, 3))
def test_the_slope_of_lambda_is_the_derivative_of_its_weights(batch, exponent):
    """By the closed form f_i * (g_i' - mean_f g'), with g' = h^lambda * ln h."""
    found_N, slope_N = value_and_slope(lambda_weights, exponent, *batch)
    close(found_N, lambda_weights(*batch, exponent=exponent))
    for group in batch.group_N.unique():
        rows = batch.group_N == group
        length = batch.length_N[rows].double()
        deviation = length.std(unbiased=False)
        h = 1 + (length - length.mean()) / (9 * deviation) if deviation > 0 else 0 * length + 1
        change = h**exponent * h.log()
        f = found_N[rows] * length.mean()
        expected = f * (change - (f * change).mean()) / length.mean()
        torch.testing.assert_close(slope_N[rows], expected, rtol=1e-9, atol=1e-12)


@given(batches())
def test_lambda_of_zero_is_token_and_its_sign_prefers_short_or_long(batch):
    close(lambda_weights(*batch, exponent=0.0), RULES["token"](*batch))
    for exponent in (-1.0, 1.0):
        factor = lambda_weights(*batch, exponent=exponent) / RULES["token"](*batch)
        for group in batch.group_N.unique():
            rows = batch.group_N == group
            order = batch.length_N[rows].argsort(stable=True)
            assert (exponent * factor[rows][order].diff() >= -1e-12).all()


def lone_short(num):
    """A group whose one short response is as many deviations below the mean as there can be."""
    length_N = torch.tensor([1] + [1000] * (num - 1))
    return Batch(length_N, torch.zeros(num).double(), torch.zeros(num, dtype=torch.long))


def test_lambda_is_defined_for_every_group_of_up_to_81_and_refused_where_it_is_not():
    """1 - sqrt(G - 1) / 9 > 0 up to G = 81."""
    assert lambda_weights(*lone_short(81), exponent=-2.0).isfinite().all()
    with pytest.raises(ValueError, match=r"undefined where 1 \+ spread \* z <= 0"):
        lambda_weights(*lone_short(83))


def test_a_large_exponent_does_not_overflow():
    assert lambda_weights(*lone_short(81), exponent=-20.0).isfinite().all()


@given(batches(), st.data())
@pytest.mark.parametrize("name", sorted(RULES))
def test_rows_that_do_not_count_change_nothing(name, batch, data):
    """Padding, aborted and dropped rows: the gradient of the others is that of a batch of them."""
    num = len(batch.length_N)
    extra = data.draw(st.integers(1, 8))
    padding = Batch(
        torch.zeros(extra, dtype=torch.long),
        torch.zeros(extra, dtype=torch.double),
        torch.tensor(data.draw(st.lists(st.integers(0, 9), min_size=extra, max_size=extra))),
    )
    padded = Batch(*(torch.cat(pair) for pair in zip(batch, padding, strict=True)))
    counted_N = padded.length_N > 0
    weight_N = over_all_rows(BOUND[name](*(c[counted_N] for c in padded)), counted_N)
    assert (weight_N[num:] == 0).all()
    # The loss divides by all rows; the factor N / num_counted makes that a mean over the counted.
    close(weight_N[:num] / (num + extra), BOUND[name](*batch) / num)


def test_a_batch_in_which_nothing_counts_has_no_weight():
    counted_N = torch.zeros(12, dtype=torch.bool)
    for weights in RULES.values():
        none = weights(*(column[counted_N] for column in fixed_batch()))
        assert (over_all_rows(none, counted_N) == torch.zeros(12)).all()


@given(batches())
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("sequence", "seq-mean-token-mean"),
        ("token_batch", "token-mean"),
        ("constant", "seq-mean-token-sum-norm"),
    ],
)
def test_rules_that_verl_has_equal_its_agg_loss(name, mode, batch):
    """One mini-batch, no padding: there verl's normalisers are those of the whole train batch."""
    columns = token_columns(batch)
    loss_NT, mask_NT = surrogate(columns), columns["response_mask"]
    expected = agg_loss(loss_NT, mask_NT, mode, loss_scale_factor=LIMIT)
    found = weighted_loss(BOUND[name](*batch), loss_NT, mask_NT)
    # verl adds 1e-8 to each length.
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def on_policy(batch: Batch):
    """Loss of each rule at ratio 1, where the token loss is -A."""
    mask_NT = token_columns(batch)["response_mask"]
    loss_NT = -batch.advantage_N[:, None] * mask_NT
    return {name: weighted_loss(BOUND[name](*batch), loss_NT, mask_NT) for name in RULES}


@given(batches())
def test_at_ratio_one_the_loss_of_balanced_and_sequence_is_zero(batch):
    """Binary rewards, zero-mean advantages (DESIGN: the loss value is no progress signal)."""
    loss = on_policy(batch)
    assert abs(loss["balanced"]) < 1e-12
    assert abs(loss["sequence"]) < 1e-12


@given(batches())
def test_at_ratio_one_the_loss_of_token_is_the_length_gap(batch):
    """Per group -(k A+)(L+ - L-) / T, so the loss of token aggregation measures the gap."""
    expected = 0.0
    for group in batch.group_N.unique():
        rows = batch.group_N == group
        length, advantage = batch.length_N[rows].double(), batch.advantage_N[rows]
        if (advantage > 0).any():
            k, a = (advantage > 0).sum(), advantage.max()
            gap = length[advantage > 0].mean() - length[advantage < 0].mean()
            expected += rows.sum() * -(k * a) * gap / length.sum()
    close(on_policy(batch)["token"], torch.as_tensor(expected / len(batch.length_N)).double())


@given(batches(rewards=st.floats(0, 1, allow_subnormal=False)))
def test_lengths_averaged_by_advantage_make_the_loss_at_ratio_one_zero_for_any_rewards(batch):
    """sum_i w_i A_i L_i = sum_i A_i, which is 0 because each group's advantages are centred."""
    assert abs(on_policy(batch)["balanced_batch_weighted"]) < 1e-9


@given(batches(rewards=st.sampled_from([0.0, 0.5, 1.0])))
def test_balanced_batch_gives_each_sign_of_the_batch_the_token_mass_of_its_count(batch):
    mass_N = RULES["balanced_batch"](*batch) * batch.length_N
    for sign in (-1, 0, 1):
        side = batch.advantage_N.sign() == sign
        close(mass_N[side].sum(), side.sum().double())


@given(batches())
def test_vl_norm_goes_from_constant_to_a_multiple_of_sequence(batch):
    close(vl_norm_weights(*batch, limit=LIMIT, alpha=0.0), BOUND["constant"](*batch))
    ratio = vl_norm_weights(*batch, limit=LIMIT, alpha=1.0) / RULES["sequence"](*batch)
    close(ratio, ratio[:1].expand_as(ratio))


@given(batches())
def test_push_on_a_prefix_shared_by_the_group(batch):
    """W = sum_i w_i A_i / G: 0 under token, (k A+ / G)(1/L+ - 1/L-) under balanced."""
    for group in batch.group_N.unique():
        rows = batch.group_N == group
        length, advantage = batch.length_N[rows].double(), batch.advantage_N[rows]
        push = {name: (BOUND[name](*batch)[rows] * advantage).mean() for name in RULES}
        close(push["token"], torch.zeros(()).double())
        if (advantage > 0).any():
            k, a = (advantage > 0).sum(), advantage.max()
            sides = 1 / length[advantage > 0].mean() - 1 / length[advantage < 0].mean()
            close(push["balanced"], k * a / rows.sum() * sides)


@pytest.mark.parametrize("name", sorted(RULES))
def test_rule_still_gives_the_committed_loss_and_gradient(name, renew_golden):
    """A change here changes training: renew with `--renew-golden` and say why in the commit."""
    batch = fixed_batch()
    columns = token_columns(batch)
    columns["log_prob"].requires_grad_()
    loss = weighted_loss(BOUND[name](*batch), surrogate(columns), columns["response_mask"])
    loss.backward()
    found = {"loss": loss.item(), "gradient": columns["log_prob"].grad.flatten().tolist()}
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if renew_golden:
        GOLDEN.write_text(json.dumps({**golden, name: found}, indent=1, sort_keys=True) + "\n")
    else:
        assert found["loss"] == pytest.approx(golden[name]["loss"], rel=1e-12)
        assert found["gradient"] == pytest.approx(golden[name]["gradient"], rel=1e-12, abs=1e-15)


@given(batches())
def test_token_micro_lies_between_token_batch_and_sequence(batch):
    """One micro-batch with all responses is `token_batch`; one for each response is `sequence`."""
    row_N = torch.arange(len(batch.length_N))
    close(token_micro_weights(*batch), RULES["token_batch"](*batch))
    close(token_micro_weights(*batch, micro_N=0 * row_N), RULES["token_batch"](*batch))
    close(token_micro_weights(*batch, micro_N=row_N), RULES["sequence"](*batch))


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="already sequence_weights"):
        rule("sequence")(lambda *_: None)
