"""How far a run has come: its metrics, and the checkpoints from which it can go on.

verl empties its metrics file when it starts, and saves a checkpoint before it logs the step. So it
logs into a file of its own, from which every record is copied to `metrics.jsonl`; then the step's
checkpoint is declared whole. A run that was killed goes on from the last whole one, with the
metrics cut back to its step: no step is there twice, and none is missing.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recipe.errors import UserError

WHOLE = "whole.json"
Record = dict[str, Any]


class Journal:
    """A run's metrics, whole checkpoints and starts."""

    def __init__(self, folder: Path, data: str, checkpoints: Path) -> None:
        """Of the run in `folder` that trains on `data`, a digest, and saves to `checkpoints`."""
        self.folder, self.data, self.checkpoints = folder, data, checkpoints
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
        start = {"after_step": self.begins_after, "commit": made_by["commit"]}
        with (self.folder / "starts.jsonl").open("a") as file:
            file.write(json.dumps(start) + "\n")

    @property
    def run_id(self) -> str:
        """Tells this run from another in the same place; its id at W&B."""
        return (self.folder / "run_id").read_text()

    def starts(self) -> list[Record]:
        """Every start of this run: the step it went on after, and the commit."""
        return read_lines(self.folder / "starts.jsonl")

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
                self._seal(checkpoint)
            yield record

    def close(self) -> None:
        """Remove verl's file, all of which is in `metrics.jsonl`."""
        self.verl_metrics.unlink(missing_ok=True)

    def last_whole(self) -> Path | None:
        """The checkpoint of the highest step that was declared whole and has all its files."""
        whole = [
            folder for folder in self.checkpoints.glob("global_step_*") if self._is_whole(folder)
        ]
        return max(whole, key=step_of, default=None)

    def _seal(self, checkpoint: Path) -> None:
        part = checkpoint / f"{WHOLE}.part"
        seal = {"run_id": self.run_id, "data": self.data, "files": sizes(checkpoint)}
        part.write_text(json.dumps(seal, indent=1))
        part.rename(checkpoint / WHOLE)

    def _is_whole(self, checkpoint: Path) -> bool:
        if not (checkpoint / WHOLE).is_file():
            return False
        seal = json.loads((checkpoint / WHOLE).read_text())
        return seal["run_id"] == self.run_id and seal["files"] == sizes(checkpoint)

    def _check_same_data(self, checkpoint: Path) -> None:
        if json.loads((checkpoint / WHOLE).read_text())["data"] != self.data:
            raise UserError(
                f"the training files have changed since {checkpoint} was saved, and its place in "
                f"the order of prompts would mean other prompts now. Put the old files back, or "
                f"train anew with trainer.resume_mode=disable."
            )

    def _cut_back(self) -> None:
        """Forget records and unfinished checkpoints after the step this start begins after."""
        kept = [r for r in read_lines(self.metrics) if r["step"] <= self.begins_after]
        part = self.metrics.with_name(f"{self.metrics.name}.part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        part.rename(self.metrics)
        for folder in self.checkpoints.glob("global_step_*"):
            if step_of(folder) > self.begins_after and not (folder / WHOLE).exists():
                shutil.rmtree(folder)


def read_lines(path: Path) -> list[Record]:
    """The records of a file of JSON lines, but for a last one that was cut off."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


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


def digest(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of files, in their order."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
