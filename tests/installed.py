"""Which of the two sets of packages the tests run with."""

import pytest
import torch

CPU_SET = pytest.mark.skipif(
    torch.version.cuda is not None, reason="about requirements/cpu.txt; the CUDA set is installed"
)
CUDA_SET = pytest.mark.skipif(
    torch.version.cuda is None, reason="about requirements/gpu.lock.txt; run make check-gpu-set"
)
