"""Choose the reader of a dump: by what its files look like, or by name."""

from collections.abc import Sequence
from pathlib import Path

from recipe.analysis.readers.openrlhf import OpenRlhf
from recipe.analysis.readers.prime_rl import PrimeRl
from recipe.analysis.readers.skyrl import SkyRl
from recipe.analysis.readers.slime import Slime
from recipe.analysis.readers.table import Table
from recipe.analysis.readers.trl import Trl
from recipe.analysis.readers.verl import Verl
from recipe.analysis.rollouts import Reader
from recipe.base.errors import UserError

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (Verl(), Trl(), SkyRl(), PrimeRl(), Slime(), OpenRlhf(), Table())
}


def choose(dumps: Sequence[Path], name: str | None = None) -> tuple[Reader, list[Path]]:
    """Return the reader and the files to read.

    Args:
        dumps: files or folders, of one run.
        name: of the format; None to recognise it by the first file.

    Raises:
        UserError: a path does not exist, or no file of that format or of any is there.
    """
    for path in dumps:
        if not path.exists():
            raise UserError(f"{path} does not exist. Give files or folders of a rollout dump.")
    for reader in READERS.values() if name is None else [READERS[name]]:
        files = [file for path in dumps for file in files_of(path, reader)]
        if files and (name is not None or reader.detects(files[0])):
            return reader, files
    listed = "; ".join(
        f"{reader.name}: {reader.writes}"
        for reader in READERS.values()
        if name in (None, reader.name)
    )
    raise UserError(
        f"no response was found in {', '.join(map(str, dumps[:3]))}: no file there is a known "
        f"rollout dump. Known are {listed}. Name the format with --format, or the columns of a "
        f"table with --columns."
    )


def files_of(path: Path, reader: Reader) -> list[Path]:
    """Return a file as it is, and of a folder the files that the reader takes."""
    return reader.files(path) if path.is_dir() else [path]
