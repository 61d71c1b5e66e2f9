"""The folders that every part of the project names."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def cache() -> Path:
    """Return this project's part of the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "balanced-aggregation"
