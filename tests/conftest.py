import os

import pytest

# The suite runs on the CPU platform, in this process and in every process it starts.
os.environ["VERL_PLATFORM"] = "cpu"
os.environ["VERL_ENGINE_DEVICE"] = "cuda"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_patches"
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser):
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden anew")


@pytest.fixture
def renew_golden(request) -> bool:
    return request.config.getoption("--renew-golden")
