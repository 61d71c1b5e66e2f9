import torch
import vllm.model_executor.layers.utils as layers


def test_a_linear_layer_keeps_its_weight_and_follows_new_values():
    layer = torch.nn.Linear(4, 3)
    layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(layer.cpu_linear(x, layer.weight, layer.bias), layer(x))
        layer.weight.data.normal_()
