import os
from copy import deepcopy

import pytest
import torch
from hypothesis import settings
from omegaconf import DictConfig

# Without CUDA the suite runs on the CPU platform, here and in every process it starts.
if not torch.cuda.is_available():
    os.environ["VERL_PLATFORM"] = "cpu"
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
os.environ["VERL_USE_EXTERNAL_MODULES"] = "verl_patches"
os.environ["HF_HUB_OFFLINE"] = "1"
# Ray gives way to everything else; tests run beside it, and it would starve.
os.environ["RAY_worker_niceness"] = "0"
# Tests share the cores: threads of one would wait for each other longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# How long an example takes is the machine's affair.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


def pytest_addoption(parser):
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden anew")


def pytest_xdist_make_scheduler(config, log):
    """Let tests of the running stack take turns in one process, and share out all others."""
    from xdist.scheduler import LoadScopeScheduling

    class TurnsOfTheStack(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "live" if nodeid.startswith("tests/live/") else nodeid

    return TurnsOfTheStack(config, log)


@pytest.fixture
def renew_golden(request) -> bool:
    return request.config.getoption("--renew-golden")


@pytest.fixture(scope="session")
def composed():
    """Compose a config as the command line does: `composed("data.train_batch_size=4")`."""
    from recipe.config.compose import composed

    # Composing takes most of a second, and many tests start from the same config.
    found: dict[tuple[str, ...], DictConfig] = {}

    def run(*overrides: str, experiment: str = "cpu_demo") -> DictConfig:
        words = (f"+experiment={experiment}", *overrides)
        if words not in found:
            found[words] = composed([*words])
        return deepcopy(found[words])

    return run
