"""Keep the metrics of a run, and know the checkpoints from which it can resume.

verl empties its metrics file when it starts, and saves a checkpoint before it logs the step. So
verl logs into a file of its own, from which every record is copied to `metrics.jsonl`. Then the
step's checkpoint is declared complete. A run that was killed resumes from the last complete
checkpoint, with the metrics cut back to its step: no step appears twice, and none is missing.
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

# In a complete checkpoint. Older checkpoints have the file under this name, too.
SEAL, NAME = "whole.json", r"global_step_\d+"


class Journal:
    """The metrics, complete checkpoints and starts of a run."""

    def __init__(self, folder: Path, data: str = "", keep: int | None = None) -> None:
        """Open the journal of the run in `folder`.

        Args:
            folder: the folder of the run.
            data: `sha256_of_files` of the files it trains on.
            keep: how many checkpoints stay when a new one is complete; all if None.
        """
        self.folder, self.data, self.keep = folder, data, keep
        self.checkpoints = folder / "checkpoints"
        self.metrics, self.verl_metrics = folder / "metrics.jsonl", folder / "metrics.verl.jsonl"
        self.begins_after, self.seconds_before, self.offset = 0, 0.0, 0

    def begin(self, checkpoint: Path | None, made_by: dict[str, Any]) -> None:
        """Start from step 0, or resume from `checkpoint` and forget what came later.

        Raises:
            UserError: the training files have changed since the checkpoint was saved.
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
        """Return the run's id at W&B."""
        return (self.folder / "run_id").read_text()

    def starts(self) -> list[Record]:
        """Return every start of this run: the step it resumed after, the commit and the command."""
        path = self.folder / "starts.jsonl"
        return read_lines(path) if path.exists() else []

    def new_records(self) -> Iterator[Record]:
        """Yield the records since the last call, each saved before it is yielded."""
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
        """Remove verl's file, whose records are all in `metrics.jsonl`."""
        self.verl_metrics.unlink(missing_ok=True)

    def complete(self) -> list[Path]:
        """Return the complete checkpoints in the order of their steps."""
        return [folder for folder in self._saved() if is_complete(folder)]

    def last_complete(self) -> Path | None:
        """Return the complete checkpoint of the highest step, None if there is none."""
        return next(reversed(self.complete()), None)

    def _saved(self) -> list[Path]:
        """Return all checkpoint folders, complete or not, in the order of their steps."""
        named = self.checkpoints.glob("global_step_*")
        return sorted((f for f in named if re.fullmatch(NAME, f.name)), key=step_of)

    def _remove_old(self) -> None:
        """Remove all but the last complete checkpoints; verl forgets those from before a resume."""
        complete = self.complete()
        if self.keep and len(complete) > self.keep:
            for folder in self._saved():
                if step_of(folder) < step_of(complete[-self.keep]):
                    shutil.rmtree(folder)

    def _check_same_data(self, checkpoint: Path) -> None:
        if json.loads((checkpoint / SEAL).read_text())["data"] != self.data:
            raise UserError(
                f"the training files have changed since {checkpoint} was saved, so its place in "
                f"the order of prompts no longer names the same prompts. Put the old files back, "
                f"or train from step 0 with trainer.resume_mode=disable."
            )

    def _cut_back(self) -> None:
        """Forget the checkpoints and records after the step from which this start resumes."""
        # Checkpoints first, to make room, with their seals: new files may have equal sizes.
        for folder in self._saved():
            if step_of(folder) > self.begins_after:
                shutil.rmtree(folder)
        kept = [r for r in read_lines(self.metrics) if r["step"] <= self.begins_after]
        write_lines(self.metrics, kept)


def seal(checkpoint: Path, data: str) -> None:
    """Declare a checkpoint complete; note the sizes of its files and the training data."""
    write_atomically(
        checkpoint / SEAL, json.dumps({"data": data, "files": sizes(checkpoint)}, indent=1)
    )


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was declared complete and still has all its files."""
    try:
        return json.loads((checkpoint / SEAL).read_text())["files"] == sizes(checkpoint)
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("_")[2])


def sizes(checkpoint: Path) -> dict[str, int]:
    """Return the bytes of every file in a checkpoint, except the seal."""
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(SEAL)
    }
