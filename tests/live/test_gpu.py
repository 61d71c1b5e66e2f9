"""On a machine with CUDA and requirements/gpu.txt: `make gpu-smoke`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_two_steps_train_on_the_gpu(tmp_path):
    command = [
        sys.executable,
        "-m",
        "recipe.main",
        "+experiment=gpu_smoke",
        f"output_root={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    [metrics] = tmp_path.glob("gpu_smoke/*/metrics.jsonl")
    steps = [json.loads(line)["data"] for line in metrics.read_text().splitlines()][1:]
    assert len(steps) == 2
    for data in steps:
        assert data["actor/update_norm"] > 0
        assert abs(data["actor/pg_loss"]) < 1e-5
        peak = data["actor/perf/max_memory_allocated_gb"]
        assert 0 < peak < torch.cuda.get_device_properties(0).total_memory / 2**30
        print(f"peak GPU memory of the trainer: {peak:.2f} GiB")
    assert re.search(r"^2 steps in ", done.stdout, re.M)
