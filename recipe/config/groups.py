"""List the groups of configs/ and their options. The first comment line describes an option."""

from pathlib import Path

from recipe.base.paths import CONFIGS


def groups() -> dict[str, dict[str, str]]:
    """Return the options of each group with their descriptions.

    `experiment` comes first, because it chooses the others.
    """
    # These two hold plans of many runs.
    plans = ("sweep", "study")
    folders = sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name not in plans)
    folders.sort(key=lambda folder: folder.name != "experiment")
    return {
        folder.name: {path.stem: describe(path) for path in sorted(folder.glob("*.yaml"))}
        for folder in folders
    }


def describe(path: Path) -> str:
    """Return the first comment line of a config file that is not Hydra's `@package`."""
    lines = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return next(line for line in lines if not line.startswith("@package"))
