"""Sample responses, differentiate each once, and keep both: the costly half of the probe.

A probe that was killed goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import AutoModelForCausalLM

from recipe.base.errors import UserError
from recipe.estimator.gradients import Store, adamw_scale
from recipe.estimator.model import Model
from recipe.estimator.options import Options, claim
from recipe.estimator.ranks import device, least, meet, num_ranks, rank
from recipe.estimator.responses import GroupSampler, chosen_rows, read_groups, sample_missing
from recipe.maths.sketch import CountSketch
from recipe.sampling.groups import SampledGroups
from recipe.sampling.in_process import Sampler
from recipe.sampling.in_vllm import VllmSampler

# How verl shards here: one copy of the model over all ranks, and none of it on the CPU.
ONE_COPY = {"fsdp_size": -1, "param_offload": False, "ulysses_sequence_parallel_size": 1}


class Collected(NamedTuple):
    """Hold the responses of a probe, and the inner products of their gradients."""

    responses: SampledGroups
    fresh: SampledGroups
    """Responses to other prompts, for the measured step."""
    grams: Mapping[str, Tensor]
    """(N, N), by the metric."""
    model: Model
    scale: Sequence[Tensor]
    """AdamW's P for each parameter."""
    limit: int
    """Length limit in tokens."""
    sketch: int

    def first(self, group_size: int) -> "Collected":
        """Return the same with the first responses of each group only."""
        size = len(self.responses.token_N) // (int(self.responses.group_N.max()) + 1)
        kept = (torch.arange(len(self.responses.token_N)) % size < group_size).nonzero()[:, 0]
        grams = {name: gram_NN[kept][:, kept] for name, gram_NN in self.grams.items()}
        return self._replace(responses=self.responses.rows(kept), grams=grams)


def collect(
    config: DictConfig, options: Options, folder: Path, say: Callable[[str], None]
) -> Collected:
    """Sample, differentiate, and keep what was done in the folder.

    Args:
        config: a resolved config of the recipe.
        options: what to measure.
        folder: where responses and gradients are kept.
        say: shows progress.

    Raises:
        UserError: the model, the data or the folder cannot be used.
    """
    path = folder / "responses.jsonl"
    if rank() == 0:
        claim(folder, config, options)
        rows = read_rows(Path(config.data.train_files))
        chosen = chosen_rows(rows, options.prompts + options.fresh, options.seed)
        sampler = sampler_of(config, options, folder)
        sample_missing(path, sampler, [rows[i] for i in chosen], options.group, options.seed, say)
        del sampler
    meet()
    every = read_groups(path)
    responses = every.of(range(options.prompts))
    if not responses.mixed():
        raise UserError(
            f"no group has correct and incorrect responses: {mean_correct(responses):.0%} of all "
            f"are correct. Without both there is no gradient. Give other prompts or another model."
        )
    model = Model(load(config))
    store = gradient_store(folder, model, every, options, say)
    store.fill(responses, say)
    return Collected(
        responses,
        every.of(range(options.prompts, options.prompts + options.fresh)),
        store.grams(),
        model,
        store.scale,
        config.data.max_response_length,
        options.sketch,
    )


def sampler_of(config: DictConfig, options: Options, folder: Path) -> GroupSampler:
    """Return what samples: vLLM or transformers, on a GPU if there is one."""
    if options.sampler == "vllm":
        return VllmSampler(config, folder / "vllm.log")
    sampler = Sampler(config)
    sampler.model.to(device())
    return sampler


def load(config: DictConfig) -> Any:
    """Return the model in float32, sharded over the ranks by verl if there are several."""
    if num_ranks() > 1:
        return sharded(config)
    model: Any = AutoModelForCausalLM.from_pretrained(
        config.actor_rollout_ref.model.path, dtype=torch.float32
    )
    return model.to(device())


def sharded(config: DictConfig) -> Any:
    """Return this rank's part of the model, wrapped as verl's engine trains it."""
    # Importing it starts verl, which a single process does not need.
    from recipe.probes.stage import Engine

    return Engine(config, fsdp_config=ONE_COPY).module


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a data file.

    Raises:
        UserError: the file is missing or is no parquet file.
    """
    try:
        return pq.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"the data {path} cannot be read: {error}. Give a parquet file of "
            f"scripts.prepare_data with --data."
        ) from None


def mean_correct(responses: SampledGroups) -> float:
    """Return the share of correct responses."""
    return (responses.score_N > 0).double().mean().item()


def gradient_store(
    folder: Path,
    model: Model,
    every: SampledGroups,
    options: Options,
    say: Callable[[str], None],
) -> Store:
    """Return the store of gradients, with AdamW's scaling."""
    part = f"-{rank()}" if rank() else ""
    path = folder / f"adamw_scale{part}.pt"
    if least(path.exists()):
        scale = torch.load(path, map_location=model.device)
    else:
        scale = adamw_scale(model, every, options.group * options.batch_groups, say)
        incomplete = path.with_suffix(".incomplete")
        torch.save(scale, incomplete)
        incomplete.rename(path)
    sketch = None
    if options.sketch:
        sketch = CountSketch(model.sizes, options.sketch, options.seed, model.device)
    return Store(folder / f"gradients{part}.bin", model, scale, sketch)
