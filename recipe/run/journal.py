"""How far a run has come: its metrics, and the checkpoints from which it can go on.

verl empties its metrics file when it starts, and saves a checkpoint before it logs the step. So it
logs into a file of its own, from which every record is copied to `metrics.jsonl`; then the step's
checkpoint is declared whole. A run that was killed goes on from the last whole one, with the
metrics cut back to its step: no step is there twice, and none is missing.
"""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.base.errors import UserError
from recipe.base.files import Record, read_lines, write_atomically, write_lines

WHOLE, NAME = "whole.json", r"global_step_\d+"


class Journal:
    """A run's metrics, whole checkpoints and starts."""

    def __init__(self, folder: Path, data: str = "", keep: int | None = None) -> None:
        """Of the run in `folder`.

        Args:
            folder: the run's.
            data: sha256_of_files of the files it trains on.
            keep: checkpoints that stay when a new one is whole; all if None.
        """
        self.folder, self.data, self.keep = folder, data, keep
        self.checkpoints = folder / "checkpoints"
        self.metrics, self.verl_metrics = folder / "metrics.jsonl", folder / "metrics.verl.jsonl"
        self.begins_after, self.seconds_before, self.offset = 0, 0.0, 0

    def begin(self, checkpoint: Path | None, made_by: dict[str, Any]) -> None:
        """Start anew, or go on after `checkpoint` and forget what came later.

        Raises:
            UserError: the training files are not those that the checkpoint's order is made of.
        """
        if checkpoint is not None:
            self._check_same_data(checkpoint)
            self.begins_after = step_of(checkpoint)
            self._cut_back()
        else:
            (self.folder / "run_id").write_text(uuid.uuid4().hex[:12])
            self.metrics.touch()
        before = (record["data"].get("timing_s/step", 0.0) for record in read_lines(self.metrics))
        self.seconds_before = sum(before)
        self.verl_metrics.unlink(missing_ok=True)
        start = {"after_step": self.begins_after} | {k: made_by[k] for k in ("commit", "command")}
        write_lines(self.folder / "starts.jsonl", [*self.starts(), start])

    @property
    def run_id(self) -> str:
        """The run's id at W&B."""
        return (self.folder / "run_id").read_text()

    def starts(self) -> list[Record]:
        """Every start of this run: the step it went on after, the commit and the command."""
        path = self.folder / "starts.jsonl"
        return read_lines(path) if path.exists() else []

    def new_records(self) -> Iterator[Record]:
        """The records since the last call, each kept before it is handed out."""
        if not self.verl_metrics.exists():
            return
        with self.verl_metrics.open("rb") as file:
            file.seek(self.offset)
            lines = file.read().split(b"\n")[:-1]
        for line in lines:
            with self.metrics.open("ab") as kept:
                kept.write(line + b"\n")
            self.offset += len(line) + 1
            record = json.loads(line)
            checkpoint = self.checkpoints / f"global_step_{record['step']}"
            if checkpoint.is_dir():
                seal(checkpoint, self.data)
                self._remove_old()
            yield record

    def close(self) -> None:
        """Remove verl's file, all of which is in `metrics.jsonl`."""
        self.verl_metrics.unlink(missing_ok=True)

    def whole(self) -> list[Path]:
        """The checkpoints that were declared whole and have all their files, by their steps."""
        return [folder for folder in self._saved() if is_whole(folder)]

    def last_whole(self) -> Path | None:
        """The whole checkpoint of the highest step."""
        return next(reversed(self.whole()), None)

    def _saved(self) -> list[Path]:
        """The checkpoints' folders, whole or not, by their steps."""
        named = self.checkpoints.glob("global_step_*")
        return sorted((f for f in named if re.fullmatch(NAME, f.name)), key=step_of)

    def _remove_old(self) -> None:
        """Keep the last whole checkpoints; verl forgets those from before a resume."""
        whole = self.whole()
        if self.keep and len(whole) > self.keep:
            for folder in self._saved():
                if step_of(folder) < step_of(whole[-self.keep]):
                    shutil.rmtree(folder)

    def _check_same_data(self, checkpoint: Path) -> None:
        if json.loads((checkpoint / WHOLE).read_text())["data"] != self.data:
            raise UserError(
                f"the training files have changed since {checkpoint} was saved, and its place in "
                f"the order of prompts would mean other prompts now. Put the old files back, or "
                f"train anew with trainer.resume_mode=disable."
            )

    def _cut_back(self) -> None:
        """Forget checkpoints and records after the step this start begins after."""
        # First, as it makes room; with their seals, which would fit the sizes of what comes there.
        for folder in self._saved():
            if step_of(folder) > self.begins_after:
                shutil.rmtree(folder)
        kept = [r for r in read_lines(self.metrics) if r["step"] <= self.begins_after]
        write_lines(self.metrics, kept)


def seal(checkpoint: Path, data: str) -> None:
    """Declare a checkpoint whole, with the sizes of its files and the data it was trained on."""
    write_atomically(
        checkpoint / WHOLE, json.dumps({"data": data, "files": sizes(checkpoint)}, indent=1)
    )


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was declared whole and still has all its files."""
    try:
        return json.loads((checkpoint / WHOLE).read_text())["files"] == sizes(checkpoint)
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("_")[2])


def sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file below a checkpoint's folder, but for the seal."""
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(WHOLE)
    }
