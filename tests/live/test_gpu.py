"""On a machine with CUDA and requirements/gpu.lock.txt: `make gpu-smoke`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe.config.machine import is_installed

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


def test_patches_for_a_cpu_are_inactive_on_a_cuda_machine():
    code = (
        "import verl_patches, importlib.metadata, verl.utils.distributed as d\n"
        "from verl.plugin.platform import get_platform\n"
        "assert get_platform().device_name == 'cuda'\n"
        "assert importlib.metadata.version.__module__ == 'importlib.metadata'\n"
        "assert not hasattr(d.initialize_global_process_group_ray, '__wrapped__')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# In float32; and as the paper's runs: bfloat16, without padding, CUDA graphs, and vLLM's weights
# from the trainer alone. The two packages of such an attention do not go together.
FLOAT32 = ["+experiment=gpu_smoke"]
AS_THE_PAPERS = [
    "+experiment=cpu_demo",
    "cluster=gpu1",
    "trainer.total_training_steps=2",
    "trainer.test_freq=2",
]
FLASH_ATTENTION_4 = [*AS_THE_PAPERS, "attention=flash_attention_4"]
BUILT = is_installed("flash-attn")
IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 9
NEEDS_BUILT = pytest.mark.skipif(not BUILT, reason="requirements/flash-attn.txt is not installed")
NEEDS_4 = pytest.mark.skipif(
    BUILT or not IS_HOPPER, reason="flash-attn is installed, or the GPU is older than Hopper"
)


@pytest.mark.timeout(2800)
@pytest.mark.parametrize(
    "overrides",
    [
        FLOAT32,
        pytest.param(AS_THE_PAPERS, marks=NEEDS_BUILT),
        pytest.param(FLASH_ATTENTION_4, marks=NEEDS_4),
    ],
)
def test_two_steps_train_on_the_gpu(overrides, tmp_path):
    command = [sys.executable, "-m", "recipe.main", *overrides, f"output_root={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2700)
    assert done.returncode == 0, done.stdout + done.stderr
    [metrics] = tmp_path.glob("*/*/metrics.jsonl")
    steps = [json.loads(line)["data"] for line in metrics.read_text().splitlines()][1:]
    assert len(steps) == 2
    for data in steps:
        assert data["actor/update_norm"] > 0
        if overrides is FLOAT32:
            assert abs(data["actor/pg_loss"]) < 1e-5
        peak = data["actor/perf/max_memory_allocated_gb"]
        assert 0 < peak < torch.cuda.get_device_properties(0).total_memory / 2**30
        print(f"peak GPU memory of the trainer: {peak:.2f} GiB")
    assert re.search(r"^2 steps in ", done.stdout, re.M)
