"""Write files completely or not at all, and read and hash them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.rename(path)


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write all records as JSON lines, or none."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def read_lines(path: Path) -> list[Record]:
    """Return the records of a file of JSON lines; a last line without its end is left out."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file, in hexadecimal."""
    return sha256_digest(path).hex()


def sha256_digest(path: Path) -> bytes:
    """Return the SHA-256 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sha256_of_files(files: Iterable[Path]) -> str:
    """Return the SHA-256 over the SHA-256 digests of files, in their order."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(sha256_digest(path))
    return whole.hexdigest()
