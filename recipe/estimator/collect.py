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

from recipe.base.errors import UserError
from recipe.estimator.gradients import Store, adamw_scale
from recipe.estimator.model import Model
from recipe.estimator.options import Options, claim
from recipe.estimator.responses import chosen_rows, sampled_groups
from recipe.maths.sketch import CountSketch
from recipe.probes.sampling import SampledGroups, Sampler


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
        part = SampledGroups(
            [self.responses.prompt_N[i] for i in kept],
            [self.responses.token_N[i] for i in kept],
            self.responses.score_N[kept],
            self.responses.group_N[kept],
        )
        grams = {name: gram_NN[kept][:, kept] for name, gram_NN in self.grams.items()}
        return self._replace(responses=part, grams=grams)


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
    claim(folder, config, options)
    rows = read_rows(Path(config.data.train_files))
    chosen = chosen_rows(rows, options.prompts + options.fresh, options.seed)
    sampler = Sampler(config)
    # A GPU if there is one: sampling, gradients and steps are all computed there.
    model = Model(sampler.model.to("cuda" if torch.cuda.is_available() else "cpu"))
    path = folder / "responses.jsonl"
    every = sampled_groups(
        path, sampler, [rows[i] for i in chosen], options.group, options.seed, say
    )
    responses = every.of(range(options.prompts))
    if not responses.mixed():
        raise UserError(
            f"no group has correct and incorrect responses: {mean_correct(responses):.0%} of all "
            f"are correct. Without both there is no gradient. Give other prompts or another model."
        )
    store = gradient_store(folder, model, every, options, say)
    store.fill(responses, say)
    return Collected(
        responses,
        every.of(range(options.prompts, options.prompts + options.fresh)),
        store.grams(),
        model,
        store.scale,
        sampler.limit,
        options.sketch,
    )


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
    path = folder / "adamw_scale.pt"
    if path.exists():
        scale = torch.load(path)
    else:
        scale = adamw_scale(model, every, options.group * options.batch_groups, say)
        part = path.with_suffix(".part")
        torch.save(scale, part)
        part.rename(path)
    sketch = None
    if options.sketch:
        device = model.parameters[0].device
        sketch = CountSketch(model.sizes, options.sketch, options.seed, device)
    return Store(folder / "gradients.bin", model, scale, sketch)
