"""Start and judge one run of the campaign, which takes as many starts as it needs."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kill_campaign.moments import SAVE_FREQ, STEPS, TEST_FREQ
from benchmarks.small_run import compare_runs, start
from recipe.base.paths import ROOT
from recipe.base.processes import end_with_parent

SETTINGS = (
    "data.train_max_samples=48",
    "data.val_max_samples=32",
    "trainer.total_epochs=2",
    f"trainer.total_training_steps={STEPS}",
    f"trainer.test_freq={TEST_FREQ}",
    f"trainer.save_freq={SAVE_FREQ}",
    # Both have a memory in the driver, which must come back, too.
    "aggregation=lambda",
    "advantage=ha_dw",
    "trainer.logger=[console,file,wandb]",
)


class Run:
    """One run below a folder of its own."""

    def __init__(self, outputs: Path, ranks: int) -> None:
        """Name the folder of the run, and its number of ranks."""
        self.outputs, self.ranks = outputs, ranks

    @property
    def folder(self) -> Path:
        """Return where the run writes, and the folder above until it does."""
        found = (path.parent for path in self.outputs.glob("cpu_demo/lambda*/config.yaml"))
        # A run without a complete checkpoint moves aside to NAME~1.
        return next((folder for folder in found if "~" not in folder.name), self.outputs)

    @contextmanager
    def started(self, **environment: str) -> Iterator[subprocess.Popen]:
        """Start the run; stop it if the campaign is stopped."""
        self.outputs.mkdir(parents=True, exist_ok=True)
        with (self.outputs / "said.log").open("a") as said:
            process = start(
                self.outputs,
                *SETTINGS,
                f"trainer.n_gpus_per_node={self.ranks}",
                env=environment,
                stdout=said,
                # Ctrl-C ends it below. If the campaign is killed, so is its driver.
                start_new_session=True,
                preexec_fn=partial(end_with_parent, os.getpid()),
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def trained(self, **environment: str) -> int:
        """Start the run, wait for its end, and return its exit code."""
        with self.started(**environment) as process:
            return process.wait()

    def said(self) -> str:
        """Return the last line that a person saw, without the path of the clone."""
        lines = (self.outputs / "said.log").read_text().splitlines() or [""]
        return lines[-1].replace(f"{ROOT}/", "")

    def judged(self, code: int, reference: Path) -> dict[str, Any]:
        """Return why a run `failed`, and otherwise what `compare_runs` returns."""
        if code:
            return {"failed": f"exit code {code}: {self.said()}"}
        return {"failed": None, **compare_runs(self.folder, reference)}
