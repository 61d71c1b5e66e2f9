"""Let one process, or those of torchrun, use verl without Ray and without its trainer."""

import importlib
import os

from omegaconf import DictConfig

# The only rank there is, unless torchrun says otherwise; the port is any that is free.
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def prepare_verl(config: DictConfig) -> None:
    """Prepare this process for verl's platform of a resolved config, before verl is imported."""
    os.environ |= config.ray_kwargs.ray_init.runtime_env.env_vars
    os.environ |= {name: value for name, value in ALONE.items() if name not in os.environ}
    # verl asks its platform while it is imported.
    importlib.import_module("verl_patches")
