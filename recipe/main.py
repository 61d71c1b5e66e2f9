"""Train: `python -m recipe.main +experiment=cpu_demo aggregation=balanced seed=0`."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).parents[1]
OmegaConf.register_new_resolver("made", lambda task: "/tmp/walk/made", replace=True)


@hydra.main(config_path=str(ROOT / "configs"), config_name="base", version_base=None)
def main(config: DictConfig) -> None:
    os.environ.update(OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env.env_vars))
    os.environ["PYTHONPATH"] = str(ROOT)
    import verl_patches  # noqa: F401
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    OmegaConf.resolve(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    from recipe.trainer import AggregationTaskRunner

    run_ppo(config, AggregationTaskRunner)


if __name__ == "__main__":
    main()
