"""The samples of a task, kept as they come: a file of JSON lines, and what they are samples of."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from recipe.errors import UserError


class Sample(NamedTuple):
    """A response to a problem, as it is kept."""

    problem: int
    """Its place in the task's file."""
    sample: int
    """Its number, 0 to the task's samples - 1."""
    seed: int
    response: str
    num_tokens: int
    truncated: bool
    """Whether the limit ended it."""


class SampleFile:
    """`TASK.samples.jsonl` in the folder of an evaluated model, beside `TASK.setup.json`."""

    def __init__(self, folder: Path, task: str, setup: dict[str, Any]) -> None:
        """The samples of `setup`, which says all that they depend on.

        Raises:
            UserError: there are samples of another setup.
        """
        self.path = folder / f"{task}.samples.jsonl"
        kept = folder / f"{task}.setup.json"
        if kept.is_file():
            given = json.loads(kept.read_text())
            differing = sorted(
                k for k in given.keys() | setup.keys() if given.get(k) != setup.get(k)
            )
            if differing:
                raise UserError(
                    f"{self.path} holds samples of another setup: "
                    + "; ".join(f"{key} was {given.get(key)!r} and is {setup.get(key)!r}"
                                for key in differing)
                    + ". Move them away, or name another folder with --out."
                )  # fmt: skip
        else:
            folder.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_text(json.dumps(setup, indent=2) + "\n")
            part.rename(kept)

    def read(self) -> dict[tuple[int, int], Sample]:
        """Every sample by (problem, sample); a last line that was cut off is removed.

        Raises:
            UserError: another line is no sample, or one is there twice.
        """
        if not self.path.exists():
            return {}
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with self.path.open("r+b") as file:
                file.truncate(end)
        found: dict[tuple[int, int], Sample] = {}
        for number, line in enumerate(whole[:end].splitlines(), start=1):
            try:
                sample = Sample(**json.loads(line))
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{self.path}:{number} is no sample: {error}. Remove that line; it is then "
                    f"sampled again."
                ) from None
            if (sample.problem, sample.sample) in found:
                raise UserError(
                    f"{self.path}:{number} holds sample {sample.sample} of problem "
                    f"{sample.problem} a second time. Remove one of the two lines."
                )
            found[sample.problem, sample.sample] = sample
        return found

    def append(self, sample: Sample) -> None:
        """Keep a sample; it is on its way to the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample._asdict(), ensure_ascii=False) + "\n")
