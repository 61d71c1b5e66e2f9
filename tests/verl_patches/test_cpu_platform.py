import torch
from verl.plugin.platform import get_platform
from verl.utils.checkpoint.checkpoint_manager import BaseCheckpointManager
from verl.utils.device import get_device_id, get_device_name, get_torch_device


def test_verl_runs_on_the_platform_cpu():
    assert get_device_name() == "cpu"
    assert torch.zeros(1).to(get_device_id()).device.type == "cpu"


def test_a_rank_claims_one_logical_gpu_of_ray():
    assert get_platform().ray_resource_options(1) == {"num_gpus": 1}


def test_memory_figures_are_those_of_the_process():
    device = get_torch_device()
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert device.memory_allocated() > block.numel()
    assert device.max_memory_allocated() >= device.memory_allocated() - 2**20
    free, total = device.mem_get_info()
    assert 0 < free < total


def test_a_checkpoint_restores_the_random_numbers():
    saved = BaseCheckpointManager.get_rng_state()
    expected = torch.rand(3)
    BaseCheckpointManager.load_rng_state(saved)
    assert torch.equal(torch.rand(3), expected)


def test_the_device_module_is_torch_cpu_for_the_rest():
    assert get_torch_device().synchronize is torch.cpu.synchronize
