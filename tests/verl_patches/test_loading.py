import os
import subprocess
import sys
from pathlib import Path

import pytest

import verl_patches

ROOT = Path(__file__).parents[2]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    base = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=base | environment,
        capture_output=True,
        text=True,
    )


STATE = """
import importlib.metadata, verl
from verl.plugin.platform.platform_manager import PlatformRegistry
import verl.utils.distributed as d
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver as r
import verl.workers.engine.fsdp.transformer_impl as m
import vllm.model_executor.layers.utils as layers
print("STATE", PlatformRegistry.get("cpu") is not None)
print("STATE", importlib.metadata.version.__module__.startswith("verl_patches"))
print("STATE", hasattr(d.initialize_global_process_group_ray, "__wrapped__"))
print("STATE", hasattr(r.receive_weights, "__wrapped__"))
print("STATE", m.CPUOffloadPolicy.__module__.startswith("verl_patches"))
print("STATE", layers.dispatch_cpu_unquantized_gemm.__module__.startswith("verl_patches"))
import transfer_queue.interface as queue
print("STATE", type(queue.ray).__name__ == "JobsRay")
"""


def patched(done: subprocess.CompletedProcess) -> list[bool]:
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("STATE")]
    return [line == "STATE True" for line in lines]


@pytest.mark.slow
def test_importing_verl_applies_every_patch_on_the_platform_cpu():
    done = run_python(STATE, VERL_PLATFORM="cpu", VERL_USE_EXTERNAL_MODULES="verl_patches")
    assert patched(done) == [True] * 7


VLLM_INSTALLED = """
import importlib.metadata as metadata
lookup = metadata.version
metadata.version = lambda name: "0.24.0+cpu" if name == "vllm" else lookup(name)
"""


@pytest.mark.slow
def test_one_patch_alone_applies_on_another_platform():
    """A CUDA machine loads them too. A distribution named `vllm` is feigned here."""
    environment = {"VERL_PLATFORM": "nvidia", "VERL_USE_EXTERNAL_MODULES": "verl_patches"}
    assert patched(run_python(VLLM_INSTALLED + STATE, **environment)) == [False] * 6 + [True]


OTHER_VERSION = """
import verl_patches.guard
verl_patches.guard.version = lambda name: "9.9.9"
import verl.workers.engine
"""


@pytest.mark.slow
def test_a_failing_guard_ends_the_process():
    environment = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "verl_patches"}
    done = run_python(OTHER_VERSION, **environment)
    assert done.returncode != 0
    assert "UpstreamChanged" in done.stderr
    assert "found 9.9.9" in done.stderr


def test_every_patch_says_where_why_what_and_until_when():
    for patch in verl_patches.PATCHES:
        for word in ("Upstream", "Why", "What", "Remove"):
            assert f"\n{word} " in patch.__doc__, (patch.__name__, word)


def test_every_patch_has_a_test_and_a_row_in_the_readme():
    readme = (ROOT / "verl_patches" / "README.md").read_text()
    for patch in verl_patches.PATCHES:
        name = patch.__name__.rpartition(".")[2]
        assert f"`{name}`" in readme
        assert (ROOT / "tests" / "verl_patches" / f"test_{name}.py").exists()
