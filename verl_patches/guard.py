"""Patches apply to the upstream code they were written for, or not at all."""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


class UpstreamChanged(RuntimeError):
    """The installed package is not the code a patch was written for."""


def expect(found: Callable[..., Any], *, package: str, release: str, sha256: str) -> None:
    """Raise unless `found` is exactly the upstream code a patch was written for.

    Args:
        found: the upstream function or class that the patch wraps or replaces.
        package: name of its distribution, as pip knows it.
        release: the version of the distribution the patch was written for.
        sha256: first 12 hex digits of the hash of its source.

    Raises:
        UpstreamChanged: the version or the source differs.
    """
    actual = hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]
    if (version(package), actual) != (release, sha256):
        raise UpstreamChanged(
            f"{found.__module__}.{found.__qualname__} is not the code this patch was written for: "
            f"expected {package} {release} / {sha256}, found {version(package)} / {actual}. "
            f"Install the pins of requirements/, or read the upstream change and update the patch "
            f"and its pin together."
        )
