"""Give the process group of a CPU run one backend, gloo.

Upstream  verl 0.9.1, verl/utils/distributed.py: initialize_global_process_group_ray
Why       it joins `cpu:gloo` with the device's own backend; for the device "cpu" that is
          `cpu:gloo,cpu:gloo`, which torch rejects as a duplicate.
What      the backend is `cpu:gloo` unless the caller names one.
Remove    once upstream leaves out the second entry for the device "cpu".
"""

from collections.abc import Callable
from types import ModuleType

import wrapt

from verl_patches.guard import expect

MODULE = "verl.utils.distributed"


def with_gloo(wrapped: Callable[..., None], instance: None, args: tuple, kwargs: dict) -> None:
    """Call upstream with a backend, which it would otherwise derive."""
    wrapped(*args, **{"backend": "cpu:gloo", **kwargs})


def patch(module: ModuleType) -> None:
    """Wrap `initialize_global_process_group_ray`."""
    upstream = module.initialize_global_process_group_ray
    expect(upstream, package="verl", sha256="761a94d1a2e0")
    wrapt.wrap_function_wrapper(module, upstream.__name__, with_gloo)


def apply() -> None:
    """Patch verl when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
