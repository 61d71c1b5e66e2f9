"""Steps with a part of the learning rate. tests/live/test_gradient.py has the halves."""

from types import SimpleNamespace

import pytest
import torch

from recipe.training.halves import at_part_of_lr


def test_a_step_takes_a_part_of_the_rate_and_the_schedule_goes_on_as_ever():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    class Engine(SimpleNamespace):
        def optimizer_step(self):
            optimizer.step()
            return "norm"

    engine, moved = Engine(optimizer=optimizer), []
    for factor in (0.5, 0.25, None):
        parameter.grad, before = torch.ones(1), parameter.item()
        if factor is None:
            engine.optimizer_step()
        else:
            with at_part_of_lr(engine, factor):
                assert engine.optimizer_step() == "norm"
                schedule.step()
        moved.append(before - parameter.item())
    # The rates of the schedule are 1, 1/2 and 1/3.
    assert moved == pytest.approx([0.5, 0.125, 1 / 3])
