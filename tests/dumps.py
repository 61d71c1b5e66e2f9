"""Rollout dumps for tests."""

import json
from pathlib import Path


def row(number: int, **columns) -> dict:
    """A row of step 1: groups of 4, the first half of each right and half as long."""
    correct = number % 4 < 2
    return {
        "input": f"prompt {number // 4}",
        "output": "x" * (10 if correct else 20),
        "gts": "4",
        "score": float(correct),
        "step": 1,
        "uid": f"{number // 4:032x}_{number % 4}_0",
        "response_length": 5 if correct else 10,
        **columns,
    }


def write(path: Path, rows: list) -> Path:
    """A dump of these rows; a string or bytes is a line as it stands."""
    lines = [line if isinstance(line, str | bytes) else json.dumps(line) for line in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((x.encode() if isinstance(x, str) else x) + b"\n" for x in lines))
    return path
