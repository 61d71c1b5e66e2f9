"""One running stack that trains each step under another config.

    python tests/variants.py OUTPUT_FOLDER

Starting Ray, the FSDP actor and vLLM takes a minute, a step two seconds.
"""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import ray
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl.trainer.main_ppo import run_ppo
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from recipe.config.checks import check_settings
from recipe.config.compose import composed
from recipe.config.data import check_data
from recipe.main import ROOT, open_journal, prepare_verl, train
from recipe.run.cluster import session
from recipe.run.folder import name_run
from recipe.tasks import embedded
from recipe.training.trainer import AggregationMixin, AggregationTaskRunner

ACTOR, CORRECTION = "actor_rollout_ref.actor", "algorithm.rollout_correction"
LOSS = f"{ACTOR}.policy_loss.loss_mode"
SCALAR = {"start": 0.0, "spread": 1 / 9, "optimizer": "sgd", "lr": 0.1}
LAMBDA = {"aggregation.rule": "lambda", "aggregation.scalar": SCALAR}

SAVED, AGAIN, RESUMED = "{}, saved", "{}, again", "{}, resumed"
# As long as the model is bad: later hardly a group is without a correct response.
SGPO = {"advantage": "sgpo", "step_judge.kind": "arithmetic"}
# Name of each step, and what its config changes. Every loss that takes weights, every rule.
VARIANTS = {
    **{phase.format("sgpo"): SGPO for phase in (SAVED, AGAIN, RESUMED)},
    "vanilla": {},
    "dppo_tv": {LOSS: "dppo_tv", "aggregation.rule": "sequence"},
    "dppo_kl": {LOSS: "dppo_kl", "aggregation.rule": "token"},
    "gspo": {LOSS: "gspo", "aggregation.rule": "token_batch"},
    "gpg": {LOSS: "gpg", "aggregation.rule": "constant"},
    "cispo": {LOSS: "cispo", **LAMBDA},
    "bypass_mode": {LOSS: "bypass_mode", f"{CORRECTION}.bypass_mode": True},
    "lambda": LAMBDA,
    "clip_higher": {
        "aggregation.rule": "token",
        f"{ACTOR}.clip_ratio_high": 0.28,
        f"{ACTOR}.clip_ratio_c": 10.0,
    },
    "entropy_bonus": {f"{ACTOR}.entropy_coeff": 0.01},
    "kl_loss": {f"{ACTOR}.use_kl_loss": True, f"{ACTOR}.kl_loss_coef": 0.1},
    "two_epochs": {f"{ACTOR}.ppo_epochs": 2, "aggregation.rule": "token"},
    "two_mini_batches": {f"{ACTOR}.ppo_mini_batch_size": 4, **LAMBDA},
    "mask_truncated": {"aggregation.mask_truncated": True},
    "token_micro": {"aggregation.rule": "token_micro"},
    "drop_zero_groups": {"aggregation.drop_zero_groups": True, "aggregation.rule": "token"},
    "token_weights": {f"{CORRECTION}.rollout_is": "token"},
    "sequence_weights": {f"{CORRECTION}.rollout_is": "sequence"},
    # Trainer and rollout agree to rounding, so half the tokens lie below a ratio of 1.
    "rejection": {
        f"{CORRECTION}.rollout_rs": "token_k1",
        f"{CORRECTION}.rollout_rs_threshold": "1.0_2.0",
    },
    "bypass": {f"{CORRECTION}.bypass_mode": True},
}
# Several mini-batches, of which rows fall into which by verl's order of arrival.
SEVERAL = {f"{ACTOR}.ppo_mini_batch_size": 4, f"{ACTOR}.ppo_epochs": 2}
VARIANTS |= {
    "ha_dw in several": {"advantage": "ha_dw", **LAMBDA, **SEVERAL},
    "gdpo in several": {"advantage": "gdpo", **SEVERAL},
    "disco_logl in several": {"objective": "disco_logl", **SEVERAL},
    "disco_lratio in several": {"objective": "disco_lratio", **SEVERAL},
}
VARIANTS |= {
    "bapo in several": {
        "objective": "bapo objective.bapo.target=0.9",
        "aggregation.rule": "token",
        **SEVERAL,
    },
    "sapo_exact in several": {LOSS: "sapo_exact", "aggregation.rule": "sequence", **SEVERAL},
    "gmpo_exact in several": {
        LOSS: "gmpo_exact",
        f"{ACTOR}.clip_ratio_low": 1e-4,
        f"{ACTOR}.clip_ratio_high": 1e-4,
        **SEVERAL,
    },
}
# Advantages and objectives beside the rules, in one update a step so that steps can be repeated.
METHODS = {
    "ha_dw": {"advantage": "ha_dw", **LAMBDA},
    "ha_dw_window": {"advantage": "ha_dw_window", "aggregation.rule": "sequence"},
    "ha_dw_code": {"advantage": "ha_dw_code", LOSS: "gspo"},
    "gdpo": {"advantage": "gdpo advantage.gdpo.length_limit=24"},
    "gdpo_token": {
        "advantage": "gdpo_token advantage.gdpo.length_limit=24",
        "aggregation.rule": "token",
    },
    "batch_std": {"advantage": "batch_std", "aggregation.positive_factor": 0.1},
    "maxrl": {"advantage": "maxrl", "aggregation.rule": "token"},
    "opo": {"advantage": "opo", "aggregation.rule": "token"},
    "oblr": {"advantage": "oblr", "aggregation.rule": "token"},
    "sgpo": SGPO,
    "shrinkage": {"advantage": "shrinkage"},
    "reinforce": {"advantage": "reinforce", "aggregation.rule": "token_batch"},
    "follow_snr": {"follow_snr": 0.5, "aggregation.rule": "token"},
    "bapo": {"objective": "bapo"},
    "gtpo": {"objective": "gtpo", "aggregation.rule": "sequence"},
    "gtpo_code": {"objective": "gtpo_code", "aggregation.rule": "sequence"},
    "disco_logl": {"objective": "disco_logl"},
    "disco_lratio": {"objective": "disco_lratio"},
    "discob_logl": {"objective": "discob_logl"},
    "discob_lratio": {"objective": "discob_lratio"},
}
# Each makes a step and is saved, makes another, and makes that again from what was saved.
for name, changes in METHODS.items():
    VARIANTS |= {phase.format(name): changes for phase in (SAVED, AGAIN, RESUMED)}


def settings(changes: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys and values, with the sections in the place of options of these groups."""
    options = {key: changes[key] for key in ("advantage", "objective") if key in changes}
    if not options:
        return changes
    chosen = [word for group, option in options.items() for word in f"{group}={option}".split()]
    config = composed(["+experiment=cpu_demo", *chosen])
    OmegaConf.resolve(config)
    return {
        "advantage": config.advantage,
        "objective": config.objective,
        "aggregation.rule": config.aggregation.rule,
        **{key: value for key, value in changes.items() if key not in options},
    }


class VariantTrainer(PPOTrainerSync):
    """verl's trainer, with the next variant of its config before each step."""

    def on_step_begin(self) -> None:
        super().on_step_begin()
        if not hasattr(self, "base"):
            self.names = iter(VARIANTS)
            self.changes = {name: settings(changes) for name, changes in VARIANTS.items()}
            # On so far, so that there is a reference model.
            self.base = deepcopy(self.config)
            self.base.actor_rollout_ref.actor.use_kl_loss = False
        self.variant = next(self.names)
        for key in {key for changes in self.changes.values() for key in changes}:
            OmegaConf.update(
                self.config, key, OmegaConf.select(self.base, key), merge=False, force_add=True
            )
        for key, value in self.changes[self.variant].items():
            OmegaConf.update(self.config, key, value, merge=False, force_add=True)
        if self.variant.endswith("resumed"):
            self.resume()
        elif not self.variant.endswith("again"):
            AggregationMixin.begin(self, self.config)
        AggregationMixin.install_loss(self)

    def resume(self) -> None:
        """As a new start would, from the checkpoint of two steps ago."""
        trainer = self.config.trainer
        step = self.global_steps - 2
        trainer.resume_mode = "resume_path"
        trainer.resume_from_path = f"{trainer.default_local_dir}/global_step_{step}"
        self.train_dataloader_it = None
        self._load_checkpoint()
        self.checkpoint_manager.update_weights(self.global_steps)
        self.global_steps += 1

    def on_step_end(self) -> None:
        super().on_step_end()
        if self.variant.endswith("saved"):
            self._save_checkpoint()
        if self.variant == list(VARIANTS)[-1]:
            self.total_training_steps = self.global_steps


@ray.remote
class VariantTaskRunner(AggregationTaskRunner.__ray_actor_class__):
    def run(self, config) -> None:
        trainer_base.TRAINER_REGISTRY["sync"] = VariantTrainer
        super().run(config)


def main(folder: Path) -> None:
    embedded.make("length_gap")
    overrides = [
        "+experiment=cpu_demo",
        f"output_root={folder}",
        f"{ACTOR}.use_kl_loss=true",
        f"trainer.total_training_steps={len(VARIANTS)}",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
        "data.max_response_length=40",
        # Several epochs, and several micro-batches a rank.
        "data.train_max_samples=200",
        "leave_out_solved=0.9",
        f"{ACTOR}.ppo_max_token_len_per_gpu=512",
        "actor_rollout_ref.rollout.n=4",
        f"trainer.rollout_data_dir={folder}/rollouts",
    ]
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose("base", overrides)
    name_run(config, folder, overrides)
    OmegaConf.resolve(config)
    settings = check_settings(config)
    check_data(config, settings)
    prepare_verl(config, settings)
    journal = open_journal(folder, config)
    with session(config) as here:
        train(lambda: run_ppo(config, VariantTaskRunner), config, journal, sys.stdout, here)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
