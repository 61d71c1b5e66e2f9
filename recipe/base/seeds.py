"""Sampling seeds that are a function of what is sampled, not of timing."""

import hashlib
import json


def request_seed(*what: int | str) -> int:
    """A 63-bit sampling seed, the same wherever the same is asked for.

    Args:
        what: all that sets a request apart: the seed of the run, the step, the prompt, the number
            of the sample.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:8], "big") >> 1
