"""Sketch long vectors so that inner products are kept (count sketch, Charikar et al. 2002).

Every coordinate is added, with a random sign, to one of `width` buckets chosen at random. Then

    E <Sx, Sy> = <x, y>      Var <Sx, Sy> <= (|x|^2 |y|^2 + <x, y>^2) / width

over the choice of buckets and signs, so the error of a cosine is about 1 / sqrt(width).
"""

import torch
from torch import Tensor


class CountSketch:
    """Sketch vectors that are given as a list of tensors of always the same sizes."""

    def __init__(self, sizes: list[int], width: int, seed: int, device: torch.device) -> None:
        """Draw a bucket and a sign for every coordinate; they take 5 bytes each.

        Args:
            sizes: number of elements of each tensor.
            width: number of buckets.
            seed: of the choice.
            device: where the tensors are.
        """
        generator = torch.Generator(device).manual_seed(seed)
        drawn = {"device": device, "generator": generator}
        self.width = width
        self.bucket = [torch.randint(width, (size,), dtype=torch.int32, **drawn) for size in sizes]
        self.sign = [
            torch.randint(2, (size,), dtype=torch.int8, **drawn).mul_(2).sub_(1) for size in sizes
        ]

    def __call__(self, tensors: list[Tensor]) -> Tensor:
        """Return the sketch, (width,) float32."""
        found = torch.zeros(self.width, device=tensors[0].device)
        for tensor, bucket, sign in zip(tensors, self.bucket, self.sign, strict=True):
            found.index_add_(0, bucket, tensor.flatten().float() * sign)
        return found
