"""What verl, vLLM, Ray and TransferQueue need here: one file per cause, listed in README.md.

Importing this package applies the patches: on every machine the one for several runs on a cluster,
and under `VERL_PLATFORM=cpu` those for a CPU. verl imports it in every process, because the configs
put it into `VERL_USE_EXTERNAL_MODULES`: unlike an entry point, a failure there is fatal.
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
    """Apply each patch of this platform once; those of modules to come wait for their import."""
    on_a_cpu = os.environ.get("VERL_PLATFORM") == "cpu"
    for patch in PATCHES if on_a_cpu else EVERYWHERE:
        patch.apply()


apply_all()
