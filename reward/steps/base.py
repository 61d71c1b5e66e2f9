"""Define a judge of steps: what it reads, what it returns, and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

from annotated_types import Ge, Gt


class Attempt(NamedTuple):
    """Hold a response whose answer is incorrect, and what it was asked."""

    problem: str
    """The text of the prompt."""
    response: str
    answer: str
    """The ground truth."""


class StepJudge(Protocol):
    """Find the first wrong step of responses."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return the share of each response that stands before its first wrong step, in characters.

        It is 1 if no step is wrong, and None if there is no verdict.
        """
        ...


@dataclass(frozen=True)
class JudgeSettings:
    """Hold the section `step_judge`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    kind: Literal["arithmetic", "server"] | None
    """`arithmetic` checks the demo's tasks exactly; `server` asks a language model."""
    url: str
    """Address of an OpenAI-compatible server, up to `/v1`. Its key is read from OPENAI_API_KEY."""
    model: str | None
    """Name of its model; None takes the first one that it serves."""
    timeout: Annotated[float, Gt(0)]
    """Seconds for one request."""
    retries: Annotated[int, Ge(0)]
    """How often a request that failed is made again."""
    at_once: Annotated[int, Gt(0)]
    """Requests in flight."""
    max_tokens: Annotated[int, Gt(0)]
    """Length limit of the judge's reply, in tokens."""


def share_before(step: int, steps: Sequence[str]) -> float:
    """Return the share of the characters that stand before a step, numbered from 0."""
    sizes = [len(text) for text in steps]
    return sum(sizes[:step]) / max(sum(sizes), 1)
