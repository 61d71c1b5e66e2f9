"""Compute gradients and log-probabilities of complete responses, in one process.

Axes: `_N` responses, `_K` directions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipe.probes.sampling import SampledGroups

# Responses in one forward pass.
AT_ONCE = 256


class Model:
    """Hold the model whose gradients are measured."""

    def __init__(self, model: Any) -> None:
        """Take a causal language model of transformers."""
        self.model = model.eval()
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.sizes = [p.numel() for p in self.parameters]

    def gradient(self, prompt: Tensor, token: Tensor) -> list[Tensor]:
        """Return G = grad sum_t log pi(y_t | x, y_<t), one tensor for each parameter.

        Args:
            prompt: token ids of the prompt.
            token: token ids of the response.
        """
        return list(torch.autograd.grad(self._log_prob(prompt, token), self.parameters))

    def _log_prob(self, prompt: Tensor, token: Tensor) -> Tensor:
        device = self.parameters[0].device
        ids = torch.cat([prompt, token]).to(device)
        logits = self.model(ids[None]).logits[0, -len(token) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, token.to(device)[:, None]).sum()

    @torch.no_grad()
    def log_probs(self, responses: SampledGroups) -> Tensor:
        """Return log pi(y | x) of each response under the current parameters, (N,) float64."""
        device = self.parameters[0].device
        found = []
        for begin in range(0, len(responses.token_N), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            rows = [
                torch.cat(pair)
                for pair in zip(responses.prompt_N[part], responses.token_N[part], strict=True)
            ]
            # Causal attention: what is padded on the right changes nothing before it.
            ids = pad_sequence(rows, batch_first=True).to(device)
            log_prob = self.model(ids).logits[:, :-1].log_softmax(-1)
            log_prob = log_prob.gather(-1, ids[:, 1:, None])[..., 0].double().cpu()
            ends = torch.tensor([len(row) for row in rows]) - 1
            begins = ends - responses.length_N[part]
            position = torch.arange(log_prob.shape[1])
            inside = (position >= begins[:, None]) & (position < ends[:, None])
            found.append((log_prob * inside).sum(1))
        return torch.cat(found)

    def combined(self, responses: SampledGroups, factor_KN: Tensor) -> list[Tensor]:
        """Return sum_i factor_ki * G_i, for each parameter a tensor (K, size).

        Args:
            responses: the responses; those whose factors are all 0 take no backward pass.
            factor_KN: a factor for each direction and response.
        """
        found = [
            torch.zeros(len(factor_KN), size, device=p.device)
            for p, size in zip(self.parameters, self.sizes, strict=True)
        ]
        for i in (factor_KN != 0).any(0).nonzero()[:, 0].tolist():
            gradient = self.gradient(responses.prompt_N[i], responses.token_N[i])
            for whole, part in zip(found, gradient, strict=True):
                whole.addr_(factor_KN[:, i].to(part), part.flatten())
        return found

    @contextmanager
    @torch.no_grad()
    def moved(self, direction: Sequence[Tensor], length: float) -> Iterator[None]:
        """Add `length` times a direction to the parameters for a while."""
        before = [p.clone() for p in self.parameters]
        for p, change in zip(self.parameters, direction, strict=True):
            p.add_(change.view_as(p), alpha=length)
        try:
            yield
        finally:
            for p, old in zip(self.parameters, before, strict=True):
                p.copy_(old)
