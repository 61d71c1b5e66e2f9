"""The process group of a CPU run has one backend, gloo.

Upstream  verl 0.9.1, verl/utils/distributed.py: initialize_global_process_group_ray
Why       it joins `cpu:gloo` with the device's own backend; for the device "cpu" that is
          `cpu:gloo,cpu:gloo`, which torch rejects as a duplicate.
What      the backend is `cpu:gloo` unless the caller names one.
Remove    once upstream leaves out the second entry for the device "cpu".
"""

from types import ModuleType

import wrapt

from verl_patches.guard import expect

MODULE = "verl.utils.distributed"


def patch(module: ModuleType) -> None:
    """Give `initialize_global_process_group_ray` a default backend."""
    expect(
        module.initialize_global_process_group_ray,
        package="verl",
        release="0.9.1",
        sha256="761a94d1a2e0",
    )

    @wrapt.patch_function_wrapper(module, "initialize_global_process_group_ray")
    def initialize(wrapped, instance, args, kwargs):
        def call(timeout_second=None, backend=None):
            return wrapped(timeout_second, backend or "cpu:gloo")

        return call(*args, **kwargs)


def apply() -> None:
    """Patch verl when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
