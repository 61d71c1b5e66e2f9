"""Ask a language model for the first wrong step, behind an OpenAI-compatible server as vLLM's is.

The judge of SGPO (arXiv:2505.11595) reads a reference solution. Data sets such as DAPO-17k have
only the final answer, so this one reads that (assumed, as the words of the question are).
"""

import asyncio
import os
import re
from collections.abc import Sequence
from hashlib import sha256

from openai import AsyncOpenAI, OpenAIError

from reward.steps.base import Attempt, JudgeSettings, share_before

QUESTION = """\
A student's solution of a problem arrives at an incorrect answer. Find the first wrong step.

Problem:
{problem}

Correct answer: {answer}

The student's solution, in numbered steps:
{steps}

Think briefly. End with a line "Answer: N", where N is the number of the first wrong step, or 0 if \
no step is wrong."""
REPLY = re.compile(r"Answer:\s*(\d+)")
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class ServerJudge:
    """Ask for each response once: a reply is kept for the rest of the run."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Take the settings. The server is called only when there is something to judge."""
        self.settings = settings
        # By a hash: a run has millions of responses, and they are long.
        self.kept: dict[bytes, float] = {}
        self.error: OpenAIError | None = None

    def __call__(self, attempts: Sequence[Attempt]) -> list[float | None]:
        """Return the share of each response before its first wrong step; None without a verdict.

        Raises:
            RuntimeError: the server answers none of the requests.
        """
        new = [one for one in dict.fromkeys(attempts) if hashed(one) not in self.kept]
        replies = asyncio.run(self._ask(new)) if new else []
        if new and all(reply is None for reply in replies):
            raise RuntimeError(
                f"the judge of steps at {self.settings.url} has answered none of {len(new)} "
                f"requests: {self.error}. Start it, or set step_judge.url and step_judge.model. "
                f"The same command goes on from the last checkpoint."
            )
        for attempt, reply in zip(new, replies, strict=True):
            found = None if reply is None else share_of(attempt.response, reply)
            if found is not None:
                self.kept[hashed(attempt)] = found
        return [self.kept.get(hashed(attempt)) for attempt in attempts]

    async def _ask(self, attempts: Sequence[Attempt]) -> list[str | None]:
        """Return the reply to each; None where the server gave none."""
        limit = asyncio.Semaphore(self.settings.at_once)
        async with AsyncOpenAI(
            base_url=self.settings.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            timeout=self.settings.timeout,
            max_retries=self.settings.retries,
        ) as client:

            async def ask(attempt: Attempt, model: str) -> str | None:
                try:
                    async with limit:
                        reply = await client.chat.completions.create(
                            model=model,
                            messages=[{"role": "user", "content": question(attempt)}],
                            temperature=0,
                            max_tokens=self.settings.max_tokens,
                        )
                # The share of failures is logged; the last one is shown if all requests fail.
                except OpenAIError as error:
                    self.error = error
                    return None
                return reply.choices[0].message.content or ""

            try:
                model = self.settings.model or (await client.models.list()).data[0].id
            except OpenAIError as error:
                self.error = error
                return [None for _ in attempts]
            return await asyncio.gather(*(ask(attempt, model) for attempt in attempts))


def hashed(attempt: Attempt) -> bytes:
    """Return what an attempt is kept by."""
    return sha256(repr(attempt).encode()).digest()


def question(attempt: Attempt) -> str:
    """Return what the judge is asked."""
    steps = enumerate(steps_of(attempt.response), 1)
    return QUESTION.format(
        problem=attempt.problem,
        answer=attempt.answer,
        steps="\n".join(f"{number}. {text.strip()}" for number, text in steps),
    )


def steps_of(response: str) -> list[str]:
    """Return a response's lines that are not empty; the sentences of one that is a single line."""
    lines = [line for line in response.splitlines() if line.strip()]
    return lines if len(lines) > 1 else SENTENCE.split(response.strip())


def share_of(response: str, reply: str) -> float | None:
    """Return the share before the step that a reply names; None if it names none that there is."""
    steps, named = steps_of(response), REPLY.findall(reply)
    if not named or int(named[-1]) > len(steps):
        return None
    number = int(named[-1])
    return 1.0 if number == 0 else share_before(number - 1, steps)
