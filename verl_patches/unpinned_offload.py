"""Offload the reference model of a CPU run without pinned memory.

Upstream  verl 0.9.1, verl/workers/engine/fsdp/transformer_impl.py: FSDPEngine._build_fsdp_module
Why       a forward-only FSDP2 model, the reference of the KL terms, gets a CPUOffloadPolicy with
          pinned memory; torch pins for an accelerator and raises "Cannot access accelerator
          device when none is available".
What      the policy is the same, with memory that is not pinned.
Remove    once upstream offloads nothing when the device is a CPU.
"""

from typing import Any

import wrapt

from verl_patches.guard import expect

MODULE = "verl.workers.engine.fsdp.transformer_impl"


def patch(module: Any) -> None:
    """Replace the name under which upstream finds the policy."""
    upstream = module.FSDPEngine._build_fsdp_module
    expect(upstream, package="verl", sha256="35b7b5398584")
    policy = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda pin_memory: policy(pin_memory=False)


def apply() -> None:
    """Patch verl when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
