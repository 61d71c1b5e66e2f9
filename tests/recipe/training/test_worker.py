from types import SimpleNamespace

import pytest
import torch

from recipe.training.worker import MeasuredTrainingWorker, adamw_changes


def test_changes_and_where_eps_is_felt_are_read_off_adamws_state():
    generator = torch.Generator().manual_seed(0)
    # Gradients from far below eps to far above it.
    size = 10.0 ** torch.linspace(-12, -2, 64)
    parameter = torch.nn.Parameter(torch.randn(64, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, eps=1e-8, weight_decay=0.1)
    gradients = []
    for _ in range(3):
        before = parameter.detach().clone()
        gradients.append(size * torch.randn(64, generator=generator))
        parameter.grad = gradients[-1].clone()
        optimizer.step()
    [(change, small)] = adamw_changes(optimizer, [1e-2])
    torch.testing.assert_close(change, parameter.detach() - before, rtol=1e-3, atol=1e-6)
    v = sum(0.001 * 0.999 ** (2 - t) * g.double() ** 2 for t, g in enumerate(gradients))
    expected = (v / (1 - 0.999**3)).sqrt() < 1e-7
    assert 0 < expected.sum() < 64
    assert torch.equal(small, expected)


def test_a_rank_that_changed_nothing_takes_part_in_the_sum(monkeypatch):
    """As one whose slice of a flat parameter is frozen; here the other rank's part is added."""
    mesh = SimpleNamespace(device_type="cpu", get_group=lambda name: name)
    worker = SimpleNamespace(engine=SimpleNamespace(device_mesh=mesh))
    other, groups = torch.tensor([9.0, 1, 4]).double(), []
    monkeypatch.setattr(
        torch.distributed,
        "all_reduce",
        lambda whole, group: groups.append(group) or whole.add_(other),
    )
    assert MeasuredTrainingWorker._measure(worker, ()) == {
        "update_norm": 3,
        "adamw_scale_sensitive_share": 0.25,
    }
    changes = [(torch.tensor([4.0, 0]), torch.tensor([True, True]))]
    found = MeasuredTrainingWorker._measure(worker, changes)
    assert found == {"update_norm": 5, "adamw_scale_sensitive_share": 0.5}
    assert groups == ["fsdp", "fsdp"]
    other.zero_()
    skipped = MeasuredTrainingWorker._measure(worker, ())
    assert skipped == pytest.approx({"update_norm": 0, "adamw_scale_sensitive_share": 0})
