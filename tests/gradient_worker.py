"""verl's actor worker, from which a test reads gradients and parameters."""

import torch
from torch.distributed.tensor import DTensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.training.worker import measured


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


class GradientWorker(measured(ActorRolloutRefWorker)):
    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_lr(self, lr: float) -> None:
        for group in self.actor.engine.optimizer.param_groups:
            group["lr"] = lr

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_micro_batches(self, use_dynamic_bsz: bool, size: int) -> None:
        engine_config = self.actor.engine_config
        engine_config.use_dynamic_bsz = use_dynamic_bsz
        engine_config.max_token_len_per_gpu = size
        engine_config.micro_batch_size_per_gpu = size

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_gradient(self) -> torch.Tensor:
        """The gradient of the last update, read off AdamW's state, which is then forgotten.

        After one step from an empty state exp_avg is (1 - beta1) times the gradient.
        """
        optimizer = self.actor.engine.optimizer
        beta1 = optimizer.param_groups[0]["betas"][0]
        parts = [
            whole(optimizer.state[parameter]["exp_avg"]).flatten() / (1 - beta1)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        self.forget()
        return torch.cat(parts)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def forget(self) -> None:
        """Make the next update the optimizer's first."""
        self.actor.engine.optimizer.state.clear()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_parameters(self) -> torch.Tensor:
        return torch.cat([whole(p).flatten() for p in self.actor.engine.module.parameters()])
