"""The responses of a train batch, and the samples that advantages are computed from."""

import driver
import torch
from driver import responses

from recipe.maths.columns import final_rows, spread
from recipe.training.responses import logit_squares, read_responses


def test_every_output_of_a_sample_leads_to_its_last():
    keys = ["a_0_1", "b-7_10_0", "a_0_0", "a_1_0", "a_0_10"]
    assert final_rows(keys).tolist() == [4, 1, 4, 3, 4]


def test_a_number_per_response_lies_on_its_trained_tokens():
    mask = torch.nested.as_nested_tensor(
        [torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0])], layout=torch.jagged
    )
    found = spread(torch.tensor([2.0, -3.0]), mask)
    assert [row.tolist() for row in found.unbind()] == [[2.0, 0.0, 2.0], [-3.0]]
    assert found.to_padded_tensor(0.0).shape == (2, 3)


def test_advantages_are_of_samples_and_all_their_outputs_have_them():
    """Rows 0 and 1 are outputs of one sample, row 3 is padding."""
    rows = responses(
        score_N=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        group_N=torch.tensor([5, 5, 5, 6]),
        final_N=torch.tensor([1, 1, 2, 3]),
        real_N=torch.tensor([True, True, True, False]),
        length_N=torch.tensor([4, 0, 2, 0]),
        num_tokens_N=torch.tensor([4, 3, 5, 1]),
        info_N=[{"format": 0.0}, {"format": 1.0}, {"format": 0.0}, {}],
    )
    scored = rows.scored()
    assert scored.score_N.tolist() == [1.0, 0.0]
    assert scored.group_N.tolist() == [0, 0]
    assert [info["format"] for info in scored.info_N] == [1.0, 0.0]
    assert scored.length_N.tolist() == [4, 2]
    assert scored.num_tokens_N.tolist() == [7, 5]
    found = rows.with_advantages(torch.tensor([0.5, -0.5]).double())
    # Row 1 has no trained token.
    assert found.advantage_N.tolist() == [0.5, 0.0, -0.5, 0.0]


def test_tokens_that_rejection_took_out_of_the_mask_still_count_as_tokens(monkeypatch, composed):
    data = driver.batch()
    masks = [mask.clone() for mask in data["response_mask"].unbind()]
    masks[2][1:] = 0
    data["response_mask"] = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
    monkeypatch.setattr("recipe.training.responses.tq.kv_batch_get", lambda *_, **__: data)
    rows = read_responses(driver.meta(), composed(), ranks=1)
    assert rows.length_N.tolist() == [3, 4, 1, 12, 6, 8, 0]
    assert rows.num_tokens_N.tolist() == driver.ROWS.lengths
    assert rows.scored().num_tokens_N.tolist() == driver.ROWS.lengths[:6]


def test_logit_squares_are_those_of_the_gradient_by_the_logits():
    """Response tokens are scored by the logits before them; untrained tokens are left out."""
    generator = torch.Generator().manual_seed(0)
    masks = [[1.0, 1.0, 0.0], [1.0, 1.0]]
    prompt, columns = 2, {"old_log_probs": [], "sum_pi_squared": []}
    expected = []
    for mask in masks:
        logits = torch.randn(prompt + len(mask), 5, generator=generator, requires_grad=True)
        token = torch.randint(5, (len(mask),), generator=generator)
        log_prob = logits.log_softmax(-1)[prompt - 1 : -1].gather(-1, token[:, None])[:, 0]
        total = 0.0
        for one, trained in zip(log_prob, mask, strict=True):
            [gradient] = torch.autograd.grad(one, logits, retain_graph=True)
            total += trained * gradient.square().sum().item()
        expected.append(total)
        columns["old_log_probs"].append(log_prob.tolist())
        columns["sum_pi_squared"].append(logits.softmax(-1).square().sum(-1).tolist())
    data = {name: driver.nested(rows) for name, rows in columns.items()}
    found = logit_squares(data | {"response_mask": driver.nested(masks)})
    torch.testing.assert_close(found, torch.tensor(expected).double())
