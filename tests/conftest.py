import os
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

# Without CUDA the suite runs on the CPU platform, here and in every process it starts.
if not torch.cuda.is_available():
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_patches"
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_addoption(parser):
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden anew")


@pytest.fixture
def renew_golden(request) -> bool:
    return request.config.getoption("--renew-golden")


@pytest.fixture(scope="session")
def composed():
    """Compose a config as the command line does: `composed("data.train_batch_size=4")`."""
    import recipe.main  # noqa: F401  (registers the config resolvers)

    def run(*overrides: str, experiment: str = "cpu_demo") -> DictConfig:
        folder = str(Path(__file__).parents[1] / "configs")
        with initialize_config_dir(folder, version_base=None):
            return compose("base", [f"+experiment={experiment}", *overrides])

    return run
