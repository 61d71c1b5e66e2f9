"""Save a figure so that the same figure gives the same file."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent


def save(figure: Figure, name: str) -> None:
    """Write `docs/figures/NAME.svg`, without a date and with fixed ids."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white")
