"""Sample tasks from one model: prompts, existing samples, and missing ones."""

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import AutoTokenizer

from eval.sampling import models
from eval.sampling.models import Model
from eval.sampling.samples import Sample, SampleFile
from recipe.base.errors import UserError
from recipe.base.progress import progress
from recipe.base.provenance import provenance
from recipe.base.seeds import request_seed
from recipe.sampling.vllm_engine import (
    Request,
    SampledResponse,
    engine_arguments,
    sample,
    vllm_may_run,
)
from recipe.tasks.task import Problems, Task


class TaskSampling(NamedTuple):
    """A task to be sampled from one model."""

    task: Task
    problems: Problems
    prompts: list[list[int]]
    setup: dict[str, Any]
    file: SampleFile
    samples: dict[tuple[int, int], Sample]

    def missing(self) -> Iterator[Request]:
        """Yield requests for missing samples; the first sample of every problem comes first."""
        for number in range(self.task.samples):
            for problem, tokens in enumerate(self.prompts):
                if (problem, number) not in self.samples:
                    yield Request(
                        f"{self.task.name}/{problem}/{number}",
                        tokens,
                        request_seed(self.setup["seed"], self.task.name, problem, number),
                        self.task.temperature,
                        self.task.top_p,
                        self.max_tokens,
                    )

    def keep(
        self, problem: int, number: int, seed: int, text: str, response: SampledResponse
    ) -> None:
        """Keep the response to a request."""
        made = Sample(problem, number, seed, text, len(response.tokens), response.truncated)
        self.file.append(made)
        self.samples[problem, number] = made

    @property
    def max_tokens(self) -> int:
        """Return the longest response, in tokens."""
        return self.setup["sampling"]["max_tokens"]

    @property
    def num_missing(self) -> int:
        """Return the number of missing samples."""
        return len(self.prompts) * self.task.samples - len(self.samples)


def prepare_tasks(
    model: Model, folder: Path, tasks: list[tuple[Task, Problems]], options: argparse.Namespace
) -> Iterator[TaskSampling]:
    """Prepare the tasks for one model, with their existing samples.

    Raises:
        UserError: a prompt leaves no room for a response, or the samples are of another setup.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        raise UserError(
            f"{folder} has no chat template, by which problems are asked. Add one to its "
            f"tokenizer; training needs it too."
        )
    given = template_arguments(options.chat_template, str(tokenizer.chat_template))
    template = {**model.chat_template, **given}
    weights, room = models.sha256(folder), models.positions(folder)
    for task, problems in tasks:
        prompts = [encode(tokenizer, row["prompt"], template) for row in problems.rows]
        left = room - max(map(len, prompts))
        if left < 1:
            raise UserError(
                f"{task.name} has a prompt of {room - left} tokens, and {folder} takes "
                f"{room}. Leave this task out."
            )
        limits = [options.max_tokens] if options.max_tokens else [task.max_tokens, model.max_tokens]
        max_tokens = min(left, *filter(None, limits))
        if max_tokens < (options.max_tokens or task.max_tokens):
            print(
                f"{task.name}: responses of up to {max_tokens} tokens, the most that the model "
                f"or its training allows"
            )
        setup = {
            "task": task.name,
            "task_version": task.version,
            "sampling": {
                "samples": task.samples,
                "temperature": task.temperature,
                "top_p": task.top_p,
                "max_tokens": max_tokens,
            },
            "data": {"sha256": problems.sha256, "problems": len(problems.rows)},
            "model": {"sha256": weights},
            "chat_template": template,
            "seed": options.seed,
        }
        file = SampleFile(model.results, task.name, setup)
        yield TaskSampling(task, problems, prompts, setup, file, file.read())


def encode(tokenizer: Any, prompt: list[dict[str, str]], template: dict[str, Any]) -> list[int]:
    """Return the tokens of a prompt, as verl makes them."""
    return tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, tokenize=True, return_dict=False, **template
    )


def template_arguments(pairs: list[str], chat_template: str) -> dict[str, Any]:
    """Return the NAME=VALUE pairs of the command line, with values read as YAML.

    Raises:
        UserError: one is not a pair, or the template never reads its name.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not re.search(rf"\b{re.escape(name)}\b", chat_template):
            raise UserError(
                f"--chat-template is {pair}, but it takes NAME=VALUE with a name that the model's "
                f"chat template reads, as enable_thinking=true of Qwen3's."
            )
        given[name] = yaml.safe_load(value)
    return given


def sample_tasks(
    folder: Path, jobs: list[TaskSampling], log: Path, options: argparse.Namespace
) -> None:
    """Sample what the jobs miss, one engine for all; vLLM's own output goes to `log`.

    Raises:
        UserError: the engine failed.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    by_name = {job.task.name: job for job in jobs}
    longest = max(max(map(len, job.prompts)) + job.max_tokens for job in jobs)
    arguments = engine_arguments(
        folder, longest, options.gpu_memory, options.tensor_parallel, options.data_parallel
    )
    with vllm_may_run(log) as terminal:
        with progress(
            total=sum(job.num_missing for job in jobs),
            desc="sampling",
            file=terminal,
            mininterval=1,
        ) as bar:

            def keep(request: Request, response: SampledResponse) -> None:
                name, problem, number = request.key.split("/")
                text = tokenizer.decode(response.tokens, skip_special_tokens=True)
                by_name[name].keep(int(problem), int(number), request.seed, text, response)
                bar.update()

            requests = (request for job in jobs for request in job.missing())
            sampled = [job for job in jobs if job.num_missing]
            made_by, start = provenance("eval.run"), time.monotonic()
            for job in sampled:
                job.file.begin(made_by)
            try:
                sample(arguments, requests, keep)
            finally:
                for job in sampled:
                    job.file.end(round(time.monotonic() - start, 1))
