"""What verl, vLLM and Ray need to run on a CPU: one file per cause, listed in README.md.

Importing this package applies the patches when `VERL_PLATFORM=cpu` and does nothing otherwise, so
a CUDA machine runs upstream code as it is. verl imports it in every process, because the configs
put it into `VERL_USE_EXTERNAL_MODULES`: unlike an entry point, a failure there is fatal.
"""

import os

from verl_patches import (
    cpu_platform,
    gloo_backend,
    received_weights,
    unpinned_offload,
    vllm_cpu_linear,
    vllm_distribution,
)

PATCHES = (
    vllm_distribution,
    cpu_platform,
    gloo_backend,
    vllm_cpu_linear,
    received_weights,
    unpinned_offload,
)


def apply_all() -> None:
    """Apply every patch once; those of modules not yet imported wait for their import."""
    for patch in PATCHES:
        patch.apply()


if os.environ.get("VERL_PLATFORM") == "cpu":
    apply_all()
