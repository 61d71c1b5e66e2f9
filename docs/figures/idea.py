"""Draw how four aggregation rules weigh the tokens of one group: docs/figures/idea.svg.

    python -m docs.figures.idea

The weights come from `recipe.maths.rules`, so the picture shows what the code does.
"""

import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from docs.figures.saving import save
from recipe.maths.rules import RULES

CORRECT, INCORRECT = "#1b7837", "#b2182b"
LENGTHS = [3, 5, 8, 12]
ADVANTAGES = [1.0, 1.0, -1.0, -1.0]
LIMIT = 14
CAPTIONS = {
    "sequence": "1 / own length",
    "token": "1 / mean length of the group",
    "constant": f"1 / length limit (here {LIMIT})",
    "balanced": "1 / mean length of the same sign",
}


def draw_rule(axes: Axes, name: str) -> None:
    """Draw each response as a row of tokens, darker where the rule's weight is larger."""
    length_N, advantage_N = torch.tensor(LENGTHS), torch.tensor(ADVANTAGES)
    group_N = torch.zeros(len(LENGTHS), dtype=torch.long)
    given = {"limit": LIMIT} if name == "constant" else {}
    weight_N = RULES[name](length_N, advantage_N, group_N, **given)
    share_N = weight_N * length_N / (weight_N * length_N).sum()
    for row, (length, advantage) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True)):
        color, weight = CORRECT if advantage > 0 else INCORRECT, float(weight_N[row])
        strength = min(1.0, 0.12 + 2.6 * weight)
        face = tuple(1 - strength * (1 - channel) for channel in to_rgb(color))
        for token in range(length):
            box = pyplot.Rectangle(
                (token, -row), 0.9, 0.75, facecolor=face, edgecolor=color, lw=0.7
            )
            axes.add_patch(box)
        said = f"weight {weight:.2f}, share {float(share_N[row]):.0%}"
        axes.text(length + 0.3, 0.37 - row, said, va="center", fontsize=8.5)
    incorrect = float(share_N[advantage_N < 0].sum())
    axes.set_title(f"{name}:  {CAPTIONS[name]}", fontsize=11, loc="left", fontweight="bold")
    axes.text(
        0,
        -4.0,
        f"correct responses: {1 - incorrect:.0%} of the objective",
        color=CORRECT,
        fontsize=9.5,
    )
    axes.text(
        0,
        -4.75,
        f"incorrect responses: {incorrect:.0%} of the objective",
        color=INCORRECT,
        fontsize=9.5,
    )
    axes.set(xlim=(-0.3, 19.5), ylim=(-5.1, 1.0))
    axes.axis("off")


def main() -> None:
    """Draw the four rules side by side."""
    figure, grid = pyplot.subplots(2, 2, figsize=(10.5, 5.6), layout="constrained")
    figure.suptitle(
        "One group of four responses, a box for each token.  Darker: a larger weight.", fontsize=11
    )
    for axes, name in zip(grid.flat, CAPTIONS, strict=True):
        draw_rule(axes, name)
    save(figure, "idea")


if __name__ == "__main__":
    main()
