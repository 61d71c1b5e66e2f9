"""Keep the samples of a task in a file of JSON lines, with the setup that made them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from recipe.base.errors import UserError
from recipe.base.files import read_lines, write_atomically, write_lines


class Sample(NamedTuple):
    """A kept response to a problem."""

    problem: int
    """Its place in the task's file."""
    sample: int
    """Its number, 0 to the task's samples - 1."""
    seed: int
    response: str
    num_tokens: int
    truncated: bool
    """True if the length limit ended it."""


class SampleFile:
    """`TASK.samples.jsonl` in the folder of an evaluated model.

    Beside it are `TASK.setup.json`, all that the samples depend on, and `TASK.sessions.jsonl`, by
    which code they were sampled.
    """

    def __init__(self, folder: Path, task: str, setup: dict[str, Any]) -> None:
        """Find the samples of `setup` in `folder`."""
        self.path = folder / f"{task}.samples.jsonl"
        self.setup_path = folder / f"{task}.setup.json"
        self.sessions_path = folder / f"{task}.sessions.jsonl"
        self.setup = setup

    def read(self) -> dict[tuple[int, int], Sample]:
        """Return every sample by (problem, sample). Remove a last line that was cut off.

        Raises:
            UserError: they are of another setup, a line is no sample, or one is there twice.
        """
        if not self.path.exists():
            return {}
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with self.path.open("r+b") as file:
                file.truncate(end)
        if end:
            self._check_setup()
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

    def begin(self, made_by: dict[str, Any]) -> None:
        """Write which code samples, before the first sample."""
        write_atomically(self.setup_path, json.dumps(self.setup, indent=2) + "\n")
        session = {key: made_by[key] for key in ("commit", "versions")} | {"seconds": None}
        before = self.sessions() if self.path.exists() else []
        write_lines(self.sessions_path, [*before, session])

    def append(self, sample: Sample) -> None:
        """Write a sample to the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample._asdict(), ensure_ascii=False) + "\n")

    def end(self, seconds: float) -> None:
        """Write how long this session took. A killed session keeps null."""
        *before, session = self.sessions()
        write_lines(self.sessions_path, [*before, session | {"seconds": seconds}])

    def sessions(self) -> list[dict[str, Any]]:
        """Return commit, versions and seconds of every sampling session."""
        return read_lines(self.sessions_path)

    def _check_setup(self) -> None:
        given = json.loads(self.setup_path.read_text())
        differing = [
            f"{key} was {given.get(key)!r} and is {self.setup.get(key)!r}"
            for key in sorted(given.keys() | self.setup.keys())
            if given.get(key) != self.setup.get(key)
        ]
        if differing:
            raise UserError(
                f"{self.path} holds samples of another setup: {'; '.join(differing)}. Ask for the "
                f"same again, or move that file away to sample anew."
            )
