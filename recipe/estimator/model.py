"""Compute gradients and log-probabilities of complete responses.

With several ranks, all compute the same response, and each holds its shard of what is by parameter.
Axes: `_N` responses, `_K` directions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence

from recipe.sampling.groups import SampledGroups

# Responses in one forward pass, and the numbers that its logits may have.
AT_ONCE = 256
LOGITS = 2**29


class Model:
    """Hold the model whose gradients are measured."""

    def __init__(self, model: Any) -> None:
        """Take a causal language model of transformers; FSDP2 may have sharded it."""
        self.model = model.eval()
        self.trained = [p for p in model.parameters() if p.requires_grad]

    @property
    def parameters(self) -> list[Tensor]:
        """Return this rank's part of each parameter."""
        return [local(p.detach()) for p in self.trained]

    @property
    def sizes(self) -> list[int]:
        """Return the sizes of these parts."""
        return [p.numel() for p in self.parameters]

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.parameters[0].device

    def gradient(self, prompt: Tensor, token: Tensor) -> list[Tensor]:
        """Return G = grad sum_t log pi(y_t | x, y_<t), this rank's part for each parameter.

        Args:
            prompt: token ids of the prompt.
            token: token ids of the response.
        """
        # FSDP2 averages over ranks, and all of them have the same gradient.
        self._log_prob(prompt, token).backward()
        found = [local(p.grad) for p in self.trained]
        for p in self.trained:
            p.grad = None
        return found

    def _log_prob(self, prompt: Tensor, token: Tensor) -> Tensor:
        ids = torch.cat([prompt, token]).to(self.device)
        logits = self.model(ids[None]).logits[0, -len(token) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, token.to(self.device)[:, None]).sum()

    def log_probs(self, responses: SampledGroups) -> Tensor:
        """Return log pi(y | x) of each response under the current parameters, (N,) float64."""
        return self._sums(responses, chosen)

    def logit_squares(self, responses: SampledGroups) -> Tensor:
        """Return the sum over a response's tokens of |d log pi / d logits|^2, (N,) float64."""

        def square(log_prob: Tensor, token: Tensor) -> Tensor:
            return 1 - 2 * chosen(log_prob, token).exp() + (2 * log_prob).exp().sum(-1)

        return self._sums(responses, square)

    @torch.no_grad()
    def _sums(
        self, responses: SampledGroups, of_token: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Add a number of each token up over each response, (N,) float64.

        Args:
            responses: the responses.
            of_token: returns the number, of the log-probabilities of all next tokens and the token.
        """
        rows = [torch.cat(pair) for pair in zip(responses.prompt_N, responses.token_N, strict=True)]
        end_N = torch.tensor([len(row) for row in rows]) - 1
        begin_N = end_N - responses.length_N
        one = int(end_N.max()) * self.model.config.vocab_size
        found_N = torch.zeros(len(rows), dtype=torch.double)
        # By length, so that little is padded.
        for part in end_N.argsort().split(max(1, min(AT_ONCE, LOGITS // one))):
            # Causal attention: what is padded on the right changes nothing before it.
            ids = pad_sequence([rows[i] for i in part], batch_first=True).to(self.device)
            log_prob = self.model(ids).logits[:, :-1].log_softmax(-1)
            number = of_token(log_prob, ids[:, 1:]).double().cpu()
            position = torch.arange(number.shape[1])
            inside = (position >= begin_N[part, None]) & (position < end_N[part, None])
            found_N[part] = (number * inside).sum(1)
        return found_N

    def combined(self, responses: SampledGroups, factor_KN: Tensor) -> list[Tensor]:
        """Return sum_i factor_ki * G_i, for each parameter a tensor (K, size).

        Args:
            responses: the responses; those whose factors are all 0 take no backward pass.
            factor_KN: a factor for each direction and response.
        """
        found = [torch.zeros(len(factor_KN), size, device=self.device) for size in self.sizes]
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
        self._forget()
        try:
            yield
        finally:
            for p, old in zip(self.parameters, before, strict=True):
                p.copy_(old)
            self._forget()

    def _forget(self) -> None:
        """Let FSDP2 gather the parameters anew: after a forward pass it keeps the last ones."""
        if isinstance(self.model, FSDPModule):
            self.model.reshard()


def chosen(log_prob: Tensor, token: Tensor) -> Tensor:
    """Return the log-probability of each token, of those of all tokens at its place."""
    return log_prob.gather(-1, token[..., None])[..., 0]


def local(tensor: Tensor) -> Tensor:
    """Return this rank's shard."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
