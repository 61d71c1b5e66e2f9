"""Show how far long work is: a bar in a terminal, and a line a minute anywhere else."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0


class Lines(tqdm):
    """Print lines that end, because a carriage return spoils a log."""

    @staticmethod
    def status_printer(file: TextIO) -> Any:
        """Return what prints a status."""

        def show(status: str) -> None:
            if status.strip():
                file.write(f"{status}\n")
                file.flush()

        return show


def progress(*, file: TextIO | None = None, **settings: Any) -> tqdm:
    """Return a progress bar for a terminal, or one of lines for a log.

    Args:
        file: where to show it; None for standard error.
        **settings: of tqdm, such as `total`, `desc` and `unit`.
    """
    shown = file or sys.stderr
    if shown.isatty():
        return tqdm(file=shown, **settings)
    # A log has no width to fill with a bar, and work of less than a minute needs no line.
    seldom = {"mininterval": SECONDS_BETWEEN_LINES, "delay": SECONDS_BETWEEN_LINES, "ncols": 0}
    return Lines(file=shown, **settings | seldom)
