"""Patch verl, vLLM and TransferQueue where this project needs it: one file per cause.

README.md lists the patches. Importing this package applies them: on every machine the one for
several runs on a cluster, and under `VERL_PLATFORM=cpu` those for a CPU. verl imports it in every
process, because the configs put it into `VERL_USE_EXTERNAL_MODULES`. A failure there ends the
process, which a failing entry point would not do.
"""

import os

from verl_patches import (
    cpu_platform,
    gloo_backend,
    own_transfer_queue,
    received_weights,
    unpinned_offload,
    unused_hccl_engine,
    vllm_cpu_linear,
    vllm_distribution,
)

EVERYWHERE = (own_transfer_queue,)
ON_A_CPU = (
    vllm_distribution,
    cpu_platform,
    gloo_backend,
    vllm_cpu_linear,
    received_weights,
    unpinned_offload,
    unused_hccl_engine,
)
PATCHES = (*EVERYWHERE, *ON_A_CPU)


def apply_all() -> None:
    """Apply each patch of this platform once; a module not yet imported is patched on import."""
    on_a_cpu = os.environ.get("VERL_PLATFORM") == "cpu"
    for patch in PATCHES if on_a_cpu else EVERYWHERE:
        patch.apply()


apply_all()
