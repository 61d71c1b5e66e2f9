"""Measure every aggregation rule as a gradient estimator, on one model and its data.

    python -m recipe.probe estimator --help

The order of work: sample groups of responses; differentiate each response once; compute every
rule's bias, noise and gain from the inner products of these gradients; take a real step along each
rule's gradient, and measure what it does to the expected score of other prompts. Responses and
gradients are kept, so a probe that was killed goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig
from scipy.stats import t as student
from torch import Tensor

from recipe.base.errors import UserError
from recipe.base.files import sha256_of, sha256_of_files, write_atomically
from recipe.estimator.gradients import Store, adamw_scale
from recipe.estimator.model import Model
from recipe.estimator.responses import chosen_rows, sampled_groups
from recipe.estimator.steps import RISE, Change, measured_changes
from recipe.maths.diagnostics import group_lengths, under_rule
from recipe.maths.estimators import (
    Advantages,
    Estimate,
    Rows,
    advantages,
    batches_of,
    between,
    estimates,
    noise_by_verdict,
    products,
)
from recipe.maths.rules import RULES, Rule, with_limit
from recipe.maths.sketch import CountSketch
from recipe.probes.sampling import SampledGroups, Sampler

# Partitions of the same responses into batches, whose results are averaged.
PARTITIONS = 8
# Learned scalar of the rule `lambda`: at 0 it is `token`.
EXPONENT = -2.0
LEVEL = 0.95


class Options(NamedTuple):
    """Hold what the command line asks for."""

    prompts: int
    group: int
    batch_groups: int
    rules: Sequence[str]
    advantage: Advantages
    baseline: str
    sketch: int
    """Width of the sketches; 0 keeps exact gradients."""
    fresh: int
    """Fresh prompts for the measured step."""
    step_batches: int
    """Batches whose gradients a step is taken along; 0 takes none."""
    seed: int


def check(options: Options) -> None:
    """Raise UserError for options that measure nothing."""
    unknown = [name for name in (*options.rules, options.baseline) if name not in RULES]
    if unknown:
        raise UserError(f"there is no rule {unknown[0]!r}. Known rules are {', '.join(RULES)}.")
    if options.baseline not in options.rules:
        raise UserError(
            f"--baseline is {options.baseline}, but --rules are {', '.join(options.rules)}. "
            f"Add it to the rules, or choose one of them."
        )
    if options.group < 2:
        raise UserError(
            f"--group is {options.group}, but an advantage compares the responses of a group. "
            f"Give at least 2."
        )
    if options.prompts < 4 * options.batch_groups:
        raise UserError(
            f"--prompts {options.prompts} make {options.prompts // options.batch_groups} batches "
            f"of {options.batch_groups} groups, but noise is measured between at least 4. Give "
            f"--prompts {4 * options.batch_groups} or more."
        )
    if options.step_batches and (options.fresh < 8 or options.step_batches < 2):
        raise UserError(
            f"--fresh is {options.fresh} and --step-batches {options.step_batches}, but the error "
            f"of the measured step needs 8 fresh prompts and 2 batches. Give at least these, or "
            f"--step-batches 0."
        )


def fingerprint(config: DictConfig, options: Options) -> dict[str, Any]:
    """Return what the kept responses and gradients depend on."""
    model = Path(config.actor_rollout_ref.model.path)
    if not model.is_dir():
        raise UserError(
            f"the model {model} is no folder. Give one that transformers loads, such as one of "
            f"scripts.export, with --model."
        )
    weights = sorted(model.glob("*.safetensors")) + sorted(model.glob("*.json"))
    return {
        "model": sha256_of_files(weights),
        "data": sha256_of(Path(config.data.train_files)),
        "limit": config.data.max_response_length,
        "prompts": options.prompts,
        "group": options.group,
        "batch_groups": options.batch_groups,
        "sketch": options.sketch,
        "fresh": options.fresh,
        "seed": options.seed,
    }


def default_folder(config: DictConfig, options: Options) -> Path:
    """Return a folder whose name depends on what is kept in it."""
    digest = hashlib.sha256(json.dumps(fingerprint(config, options)).encode()).hexdigest()
    return Path("outputs/probes") / f"estimator-{digest[:8]}"


def claim(folder: Path, config: DictConfig, options: Options) -> None:
    """Make the folder, or check that what is in it is of the same probe.

    Raises:
        UserError: it holds another probe's responses.
    """
    path, own = folder / "kept.json", fingerprint(config, options)
    if path.exists() and (other := json.loads(path.read_text())) != own:
        differs = ", ".join(key for key in own if other.get(key) != own[key])
        raise UserError(
            f"{folder} keeps responses of a probe with another {differs}. Give another folder "
            f"with --out, or remove this one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(own, indent=1) + "\n")


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
    model = Model(sampler.model)
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


def with_rules(options: Options, limit: float) -> dict[str, Rule]:
    """Return the rules that are asked for."""
    every = with_limit(limit) | {"lambda": partial(RULES["lambda"], exponent=EXPONENT)}
    return {name: every[name] for name in options.rules}


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


def judge(kept: Collected, options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measures of every rule, with intervals.

    Raises:
        UserError: noise hides the gradient.
    """
    responses, rules = kept.responses, with_rules(options, kept.limit)
    rows = Rows(responses.length_N, responses.score_N, responses.group_N)
    generator = torch.Generator().manual_seed(options.seed)
    drawn = [
        batches_of(options.prompts, options.batch_groups, generator) for _ in range(PARTITIONS)
    ]
    found: dict[str, dict[str, Estimate]] = {}
    true_norm: dict[str, float] = {}
    for metric, gram_NN in kept.grams.items():
        of_metric = [
            products(gram_NN, rows, rules, options.advantage, batch_P) for batch_P in drawn
        ]
        found[metric] = estimates(of_metric)
        square = torch.stack([between(part.true_BB) for part in of_metric]).mean().item()
        true_norm[metric] = max(square, 0.0) ** 0.5
    say("computed the measures of all rules")
    if not all(true_norm.values()):
        raise UserError(
            f"{options.prompts} prompts do not tell the gradient of the expected score from 0. "
            f"Give more --prompts."
        )
    changes = {}
    if options.step_batches:
        batch_P = drawn[0].where(drawn[0] < options.step_batches, -1)
        changes = measured_changes(
            kept.model,
            kept.scale,
            responses,
            kept.fresh,
            rules,
            options.advantage,
            batch_P,
            true_norm,
            say,
        )
    return {
        "options": {**options._asdict(), "rules": list(options.rules)},
        "correct": mean_correct(responses),
        "num_mixed": len(responses.mixed()),
        "rise": RISE,
        "true_norm": true_norm,
        "sketch_error": 1 / kept.sketch**0.5 if kept.sketch else 0.0,
        **lengths(responses),
        "noise": {
            metric: noise_by_verdict(gram_NN.diagonal(), rows)
            for metric, gram_NN in kept.grams.items()
        },
        "rules": {
            name: of_rule(place, rule, responses, options, found, changes)
            for place, (name, rule) in enumerate(rules.items())
        },
    }


def lengths(responses: SampledGroups) -> dict[str, float | None]:
    """Return length gap and length variation, means over groups."""
    groups = group_lengths(responses.length_N, responses.advantage_N, responses.group_N)
    return {
        "length": responses.length_N.double().mean().item(),
        "length_gap": number(groups.gap_P.nanmean()),
        "length_variation": number(groups.variation_P.nanmean()),
    }


def of_rule(
    place: int,
    rule: Rule,
    responses: SampledGroups,
    options: Options,
    found: dict[str, dict[str, Estimate]],
    changes: dict[str, Change],
) -> dict[str, Any]:
    """Return the numbers of one rule: each value and its difference to the baseline's.

    Half widths are of 95 % intervals. Those of a difference are also given for all differences
    together (Bonferroni).
    """
    advantage_N = advantages(responses.score_N, responses.group_N, options.advantage)
    weight_N = rule(responses.length_N, advantage_N, responses.group_N)
    baseline = list(options.rules).index(options.baseline)
    num_batches = options.prompts // options.batch_groups
    numbers: dict[str, Any] = {
        "share_negative": under_rule(responses.length_N, advantage_N, weight_N)[
            "objective_share_negative"
        ]
    }
    measured: list[tuple[str, Estimate | Change, int]] = [
        (f"{key}/{metric}", estimate, num_batches)
        for metric in found
        for key, estimate in found[metric].items()
    ]
    measured += [
        (f"measured/{metric}", change, options.step_batches) for metric, change in changes.items()
    ]
    comparisons = max(len(options.rules) - 1, 1)
    for key, estimate, num in measured:
        wide = float(student.ppf(1 - (1 - LEVEL) / 2, num - 1))
        together = float(student.ppf(1 - (1 - LEVEL) / 2 / comparisons, num - 1))
        error = estimate.standard_error(baseline)[place]
        numbers[key] = {
            "value": number(estimate.value_R[place]),
            "half_width": number(wide * estimate.standard_error()[place]),
            "difference": number(estimate.value_R[place] - estimate.value_R[baseline]),
            "difference_half_width": number(wide * error),
            "difference_half_width_together": number(together * error),
        }
    return numbers


def number(value: Tensor) -> float | None:
    """Return a number for JSON; None where it is not defined."""
    return value.item() if value.isfinite() else None
