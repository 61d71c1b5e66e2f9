"""Make sampling seeds that depend on what is sampled, not on timing."""

import hashlib
import json


def request_seed(*what: int | str) -> int:
    """Return a 63-bit sampling seed that is the same for the same request on every machine.

    Args:
        what: everything that identifies a request: the seed of the run, the step, the prompt,
            the number of the sample.
    """
    return int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:8], "big") >> 1
