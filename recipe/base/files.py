"""Write files completely or not at all, and read and hash them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, all or none."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def read_lines(path: Path) -> list[Record]:
    """The records of a file of JSON lines, but for a last one that was cut off."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def sha256_of_files(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, in their order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
