"""Sample with one vLLM engine: many requests at once, each with its own seed."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from recipe.base.errors import UserError
from recipe.base.paths import cache
from recipe.run.console import output_to
from recipe.run.processes import Watch, temporary_folder

# Requests that the engine knows of at a time; it decides itself how many of them run together.
REQUESTS_AHEAD = 2048


class Request(NamedTuple):
    """A request for one response."""

    key: str
    """A unique name."""
    tokens: list[int]
    """The prompt."""
    seed: int
    temperature: float
    top_p: float
    max_tokens: int


class SampledResponse(NamedTuple):
    """A response of the engine."""

    tokens: list[int]
    truncated: bool


def sample(
    engine_arguments: dict[str, Any],
    requests: Iterable[Request],
    keep: Callable[[Request, SampledResponse], None],
) -> None:
    """Sample every request; `keep` gets each response as soon as it is complete.

    Args:
        engine_arguments: of vLLM's AsyncEngineArgs.
        requests: what to sample, begun in this order.
        keep: called in the order in which responses end.
    """
    asyncio.run(_sample(engine_arguments, requests, keep))


async def _sample(
    engine_arguments: dict[str, Any],
    requests: Iterable[Request],
    keep: Callable[[Request, SampledResponse], None],
) -> None:
    # Loaded here: it takes seconds, and grading needs none of it.
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # Sizes a batch as vLLM does for offline work: on an H100 1,024 responses instead of 128.
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(**engine_arguments), usage_context=UsageContext.LLM_CLASS
    )
    waiting = iter(requests)

    async def work() -> None:
        # Between two awaits nothing else runs, so the workers can share the iterator.
        for request in waiting:
            keep(request, await respond(engine, request))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(REQUESTS_AHEAD * engine_arguments["data_parallel_size"]):
                group.create_task(work())
    finally:
        engine.shutdown()


async def respond(engine: Any, request: Request) -> SampledResponse:
    """Return the response to one request.

    Raises:
        RuntimeError: vLLM gave it up, as it does when it is told to end.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        seed=request.seed,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    prompt = {"prompt_token_ids": request.tokens}
    [output] = [one async for one in engine.generate(prompt, parameters, request.key)]
    [completion] = output.outputs
    if completion.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a response by {completion.finish_reason}")
    return SampledResponse(list(completion.token_ids), completion.finish_reason == "length")


@contextmanager
def vllm_may_run(log: Path) -> Iterator[TextIO]:
    """Give vLLM a folder for its files, and its output the log; yield the terminal.

    Raises:
        UserError: the engine failed.
    """
    with temporary_folder() as temporary, Watch(temporary), output_to(log) as terminal:
        os.environ |= environment(temporary)
        try:
            yield terminal
        except* Exception as group:
            reason = str(group.exceptions[0]).strip().splitlines() or [repr(group)]
            raise UserError(
                f"sampling failed: {reason[-1]}. The full log is {log}. All samples so "
                f"far are kept; run the same command again to continue."
            ) from group


def environment(temporary: Path) -> dict[str, str]:
    """Return the environment of vLLM; variables that are set already stay."""
    # Settles where this process keeps such files: it outlives the folder that vLLM's processes get.
    tempfile.gettempdir()
    ours = {
        # Its process is a new one: a fork of this one might inherit a held lock.
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHINDUCTOR_CACHE_DIR": str(cache() / "torchinductor"),
    }
    unset = {name: value for name, value in ours.items() if name not in os.environ}
    # The sockets are named by this process.
    return {**unset, "TMPDIR": str(temporary), "VLLM_RPC_BASE_PATH": str(temporary)}


def engine_arguments(
    folder: Path,
    longest: int,
    gpu_memory: float = 0.9,
    tensor_parallel: int = 1,
    data_parallel: int = 1,
) -> dict[str, Any]:
    """Return the arguments of vLLM's engine for a model and its longest sequence.

    Args:
        folder: the model.
        longest: prompt and response, in tokens.
        gpu_memory: part of a GPU's memory that it takes.
        tensor_parallel: GPUs that share one copy of the model.
        data_parallel: copies of the model.
    """
    import torch

    arguments = {
        "model": str(folder),
        "max_model_len": longest,
        "tensor_parallel_size": tensor_parallel,
        "data_parallel_size": data_parallel,
        "seed": 0,
    }
    if torch.cuda.is_available():
        return arguments | {"gpu_memory_utilization": gpu_memory}
    # A generator on a CPU has no offset, by which vLLM takes back what a part of a prompt drew.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(longest, 8192)}
    return arguments | {"enforce_eager": True} | whole_prompts
