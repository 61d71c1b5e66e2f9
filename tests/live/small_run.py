"""The run that is killed, resumed, exported and evaluated."""

import subprocess
from pathlib import Path

import benchmarks.small_run

ROOT = Path(__file__).parents[2]
# Two epochs of three steps, saved where an epoch ends.
STEPS = 6
SETTINGS = (
    "data.train_max_samples=24",
    "data.val_max_samples=64",
    "trainer.total_epochs=2",
    f"trainer.total_training_steps={STEPS}",
    "trainer.test_freq=3",
    "trainer.save_freq=3",
    "aggregation=lambda",
    "advantage=ha_dw",
    "trainer.logger=[console,file,wandb]",
)


def start(outputs: Path, *overrides: str) -> subprocess.Popen:
    dumps = f"trainer.validation_data_dir={outputs}/validation"
    return benchmarks.small_run.start(outputs, *SETTINGS, dumps, *overrides)


def finish(outputs: Path, *overrides: str) -> str:
    run = start(outputs, *overrides)
    said = run.communicate(timeout=1200)[0]
    assert run.returncode == 0, said
    return said
