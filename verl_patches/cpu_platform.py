"""Register the platform `cpu` with verl.

Upstream  verl 0.9.1, verl/plugin/platform: the registry holds cuda, npu and rocm
Why       verl asks its platform for device names, the torch device module, memory figures, the
          communication backend and the Ray resource of a rank.
What      a platform registered through the public `PlatformRegistry`. A rank claims one logical
          Ray `GPU` (`ray_kwargs.ray_init.num_gpus`), so resource pools work as on a GPU machine.
Remove    once verl ships a CPU platform.
"""

import resource
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch

from verl_patches.guard import expect


class CPUDevice(ModuleType):
    """`torch.cpu` with the other functions that verl calls on every device module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def set_rng_state(self, state: torch.Tensor) -> None:
        """Set torch's own random state, which a checkpoint holds under the name "cpu"."""
        torch.set_rng_state(state)

    def empty_cache(self) -> None:
        """Do nothing, because nothing is cached."""

    def ipc_collect(self) -> None:
        """Do nothing, because nothing is shared by handle."""

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Do nothing, because the kernel's peak cannot be reset."""

    def get_device_name(self, device: Any = None) -> str:
        """Return the name by which verl looks up the peak FLOP rate; unknown ones have no limit."""
        return "cpu"

    def memory_allocated(self, device: Any = None) -> int:
        """Return the resident bytes of this process."""
        return psutil.Process().memory_info().rss

    def max_memory_allocated(self, device: Any = None) -> int:
        """Return the peak resident bytes of this process."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    memory_reserved = memory_allocated
    max_memory_reserved = max_memory_allocated

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """Return the free and total bytes of the machine."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total


DEVICE = CPUDevice("torch.cpu")


def platform_class() -> type:
    """Return the platform's class; it is built on call, because its base class lives in verl."""
    from verl.plugin.platform.platform_base import PlatformBase

    class PlatformCPU(PlatformBase):
        """Every rank is a process on the host's CPUs."""

        @property
        def device_name(self) -> str:
            return "cpu"

        @property
        def vendor_name(self) -> str:
            return "cpu"

        @property
        def device_module(self) -> ModuleType:
            return DEVICE

        def is_available(self) -> bool:
            return True

        def current_device(self) -> str:
            # A device torch accepts: on a CPU an index would name an accelerator.
            return "cpu"

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: int) -> None: ...

        def synchronize(self, device_index: int | None = None) -> None: ...

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        def manual_seed_all(self, seed: int) -> None:
            torch.manual_seed(seed)

        def set_allocator_settings(self, settings: str) -> None: ...

        def empty_cache(self) -> None: ...

        def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"

        def ray_resource_name(self) -> str:
            return "GPU"

        def ray_noset_envvars(self) -> list[str]:
            return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

        def is_ipc_supported(self) -> bool:
            return False

        @contextmanager
        def nvtx_range(self, msg: str):
            yield

        def profiler_start(self) -> None: ...

        def profiler_stop(self) -> None: ...

        def cudart(self) -> None:
            return None

    return PlatformCPU


def apply() -> None:
    """Register the platform."""
    from verl.plugin.platform.platform_manager import PlatformRegistry

    expect(PlatformRegistry.register, package="verl", sha256="81bf1fb5c8ae")
    PlatformRegistry.register(platform="cpu")(platform_class())
