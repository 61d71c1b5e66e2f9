"""Draw one training step from prompt to gradient: docs/figures/step.svg.

python -m docs.figures.step
"""

from matplotlib import pyplot
from matplotlib.axes import Axes

from docs.figures.saving import save

WIDTH, HEIGHT, GAP = 3.0, 1.5, 0.75
PLACES = {"verl": "#e6e6e6", "ours": "#cfe3f5"}
# Title, file, place, whose code.
UPPER = [
    ("Prompts", "verl's data loader", "driver", "verl"),
    ("Responses", "recipe/training/rollout.py", "vLLM servers", "ours"),
    ("Verdicts and scores", "reward/score.py", "reward workers", "ours"),
    ("Advantages", "recipe/maths/advantages/", "driver", "ours"),
]
LOWER = [
    ("New parameters\ngo to vLLM", "verl", "workers", "verl"),
    (
        "Weighted loss,\ngradient, AdamW",
        "recipe/objectives/\nrecipe/training/worker.py",
        "workers",
        "ours",
    ),
    ("Split over ranks\nand micro-batches", "verl", "driver", "verl"),
    (
        "One weight per\nresponse, metrics",
        "recipe/maths/rules.py\nrecipe/maths/diagnostics.py",
        "driver",
        "ours",
    ),
]  # Drawn from left to right, run from right to left.


def draw_box(axes: Axes, column: int, row: int, box: tuple[str, str, str, str]) -> None:
    """Draw one part of the step with its file and the process it runs in."""
    title, file, place, whose = box
    x, y = column * (WIDTH + GAP), -row * (HEIGHT + 1.1)
    axes.add_patch(
        pyplot.Rectangle((x, y), WIDTH, HEIGHT, facecolor=PLACES[whose], edgecolor="#444444")
    )
    middle = x + WIDTH / 2
    axes.text(middle, y + 1.08, title, ha="center", va="center", fontsize=10, fontweight="bold")
    axes.text(middle, y + 0.42, file, ha="center", va="center", fontsize=8, family="monospace")
    axes.text(middle, y - 0.08, place, ha="center", va="top", fontsize=8.5, style="italic")


def draw_arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from one box to the next."""
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", "color": "#444444", "lw": 1.4})


def main() -> None:
    """Draw two rows of boxes, a loop."""
    figure, axes = pyplot.subplots(figsize=(10.5, 4.0), layout="constrained")
    for row, boxes in enumerate((UPPER, LOWER)):
        for column, box in enumerate(boxes):
            draw_box(axes, column, row, box)
    pitch, lower = WIDTH + GAP, -(HEIGHT + 1.1)
    for column in range(3):
        left, right = column * pitch + WIDTH, (column + 1) * pitch
        draw_arrow(axes, (left, HEIGHT / 2), (right, HEIGHT / 2))
        draw_arrow(axes, (right, lower + HEIGHT / 2), (left, lower + HEIGHT / 2))
    draw_arrow(axes, (3 * pitch + WIDTH - 0.4, 0), (3 * pitch + WIDTH - 0.4, lower + HEIGHT))
    draw_arrow(axes, (0.4, lower + HEIGHT), (0.4, 0))
    for number, (whose, words) in enumerate((("ours", "this project"), ("verl", "verl"))):
        x = 5.4 + 2.6 * number
        axes.add_patch(
            pyplot.Rectangle((x, 1.95), 0.35, 0.3, facecolor=PLACES[whose], edgecolor="#444444")
        )
        axes.text(x + 0.5, 2.1, words, va="center", fontsize=9.5)
    axes.text(0, 2.1, "One training step, from prompt to gradient", va="center", fontsize=11)
    axes.set(xlim=(-0.2, 3 * pitch + WIDTH + 0.2), ylim=(lower - 0.55, 2.4))
    axes.axis("off")
    save(figure, "step")


if __name__ == "__main__":
    main()
