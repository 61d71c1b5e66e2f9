import math

import torch

from recipe.maths.sketch import CountSketch

SIZES, WIDTH = [300, 50], 64
CPU = torch.device("cpu")


def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, sum(SIZES), generator=generator).double() + 0.3


def test_inner_products_are_kept_with_the_stated_variance():
    x, y = vectors()
    found = []
    for seed in range(2000):
        sketch = CountSketch(SIZES, WIDTH, seed, CPU)
        found.append(sketch([*x.split(SIZES)]).double() @ sketch([*y.split(SIZES)]).double())
    found = torch.stack(found)
    bound = math.sqrt((x @ x * (y @ y) + (x @ y) ** 2) / WIDTH)
    assert abs(found.mean() - x @ y) < 4 * bound / math.sqrt(2000)
    # The bound leaves out a term of the order of 1 / size.
    assert 0.8 * bound < found.std() < 1.1 * bound


def test_it_is_linear_and_the_same_for_the_same_seed():
    x, y = vectors()
    sketch, again = (CountSketch(SIZES, WIDTH, 3, CPU) for _ in range(2))
    both = sketch([*(x + 2 * y).split(SIZES)])
    apart = sketch([*x.split(SIZES)]) + 2 * again([*y.split(SIZES)])
    torch.testing.assert_close(both, apart, rtol=1e-4, atol=1e-4)
