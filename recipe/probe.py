"""Measure aggregation rules at a fixed policy, in minutes and without training.

    python -m recipe.probe estimator         # which rule estimates the gradient best, on your model
    python -m recipe.probe prefix_push       # what a rule does to tokens that a group shares
    python -m recipe.probe reward_scale      # what AdamW makes of rewards ten times as large
    python -m recipe.probe momentum          # what moves on once the loss is flat
    python -m recipe.probe loss_value        # what the value of the loss says

`estimator` takes a model and data of yours: see `recipe.probe estimator --help`. The others measure
the hidden biases of arXiv:2601.05002 beside their closed forms: each samples responses of the small
model, runs verl's engine on this machine's CPU, and takes at most 90 s. Every probe prints a table,
and writes report.md, NAME.png and result.json to outputs/probes/NAME.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from omegaconf import DictConfig

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.provenance import provenance
from recipe.config.compose import composed, resolve
from recipe.estimator import report
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.options import Options, check, default_folder
from recipe.estimator.pilot import needed_prompts, pilot_of
from recipe.estimator.ranks import meet, num_ranks, rank
from recipe.estimator.seeds import check_seeds, pooled
from recipe.maths.estimators import ADVANTAGES
from recipe.maths.rules import MICRO, RULES
from recipe.run.console import output_to
from recipe.tasks import embedded
from recipe.training.alone import prepare_verl

if TYPE_CHECKING:
    from recipe.probes.stage import Stage

ESTIMATOR = "estimator"
DEFAULT_EXPERIMENT = "+experiment=cpu_demo"
NAMES = ("prefix_push", "reward_scale", "momentum", "loss_value")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("recipe.probe", __doc__)
    probes = command.add_subparsers(dest="name", required=True, metavar="PROBE")
    for name in (ESTIMATOR, *NAMES):
        add = probes.add_parser(
            name, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        ).add_argument
        add("--out", type=Path, metavar="FOLDER", help="where to write, not outputs/probes/...")
        seeds: dict[str, Any] = {"type": int, "help": "of the prompts and the sampled responses"}
        if name == ESTIMATOR:
            add("--seed", nargs="+", default=[0], **seeds)
            add_estimator_options(add)
        else:
            add("--seed", default=0, **seeds)
    return command


def add_estimator_options(add: Callable[..., Any]) -> None:
    """Add the options of the probe `estimator`."""
    add(
        "overrides",
        nargs="*",
        help="of the config, with its +experiment=NAME (without any: +experiment=cpu_demo)",
    )
    add("--model", metavar="FOLDER", help="model to measure, not that of the config")
    add("--data", metavar="FILE", help="prompts, as scripts.prepare_data writes them")
    add("--prompts", type=int, default=128, help="prompts whose responses are differentiated")
    add("--precision", type=float, help="make --prompts so many that intervals are +- this wide")
    add("--group", type=int, default=8, help="responses of each prompt")
    add("--batch-groups", type=int, default=8, help="groups of a train batch")
    rules = [name for name in RULES if name != MICRO]
    add("--rules", nargs="+", default=rules, metavar="RULE", help="rules to compare")
    add("--baseline", default="token", help="rule that the others are compared with")
    add("--advantage", choices=list(ADVANTAGES), default="std", help="how advantages are made")
    add("--positive-factor", type=float, default=1.0, help="of weights where A > 0")
    add("--sketch", type=int, default=2**15, help="numbers kept of each gradient; 0 keeps all")
    add("--fresh", type=int, default=64, help="more prompts, for the measured step")
    add(
        "--sampler",
        choices=("transformers", "vllm"),
        default="vllm" if torch.cuda.is_available() else "transformers",
        help="what samples; on a GPU vllm unless said otherwise",
    )
    add("--step-batches", type=int, default=3, help="batches that steps are taken along; 0: none")


def main() -> None:
    """Run the probe, and report errors in one paragraph."""
    given = parser().parse_args()
    # Steps are small: on a busy machine threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    with errors_reported():
        try:
            if given.name == ESTIMATOR:
                run_estimator(given)
            else:
                run(given.name, given.seed, given.out or Path("outputs/probes") / given.name)
        except OSError as error:
            if error.filename is None:
                raise
            raise UserError(
                f"{error.filename}: {error.strerror}. Name another folder with --out."
            ) from None


def run(name: str, seed: int, folder: Path) -> None:
    """Measure, print, write.

    Raises:
        UserError: the small model cannot be made, or the responses are not what the probe needs.
    """
    started = time.monotonic()
    config = composed([DEFAULT_EXPERIMENT, f"seed={seed}"])
    resolve(config)
    embedded.make(config.data.task)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.log"
    log.unlink(missing_ok=True)
    print(f"{name}: the output of verl goes to {log}", flush=True)
    with output_to(log) as terminal:

        def say(text: str) -> None:
            terminal.write(f"{time.monotonic() - started:5.1f} s  {text}\n")

        probe, stage = prepare(name, config, say)
        result = probe.measure(stage)
    result["seconds"] = round(time.monotonic() - started, 1)
    lines = probe.report(result)
    print("\n".join(["", *lines, ""]))
    for path in write(folder, name, probe, result | {"seed": seed, **provenance("recipe.probe")}):
        print(f"wrote {path}")


def run_estimator(given: argparse.Namespace) -> None:
    """Measure the rules as estimators, print, write.

    Raises:
        UserError: an option, the model or the data cannot be used.
    """
    started = time.monotonic()
    seeds = given.seed
    check_seeds(seeds)
    overrides = given.overrides or [DEFAULT_EXPERIMENT]
    if given.model:
        overrides = [*overrides, f"actor_rollout_ref.model.path={given.model}"]
    if given.data:
        overrides = [*overrides, f"data.train_files={given.data}"]
    asked = {name: getattr(given, name) for name in Options._fields}
    options = Options(**asked | {"seed": seeds[0]})
    config = composed([*overrides, f"seed={options.seed}"])
    resolve(config)
    check(options)
    if num_ranks() > 1:
        prepare_verl(config)
    if rank() == 0 and not (given.model and given.data):
        embedded.make(config.data.task)
    meet()

    def say(text: str) -> None:
        if rank() == 0:
            print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)

    if given.precision:
        pilot = pilot_of(options)
        kept = collect(config, pilot, default_folder(config, pilot), say)
        prompts = needed_prompts(judge(kept, pilot, say), given.precision, say)
        options = options._replace(prompts=prompts)
    made_by = provenance("recipe.probe")
    folder = given.out or default_folder(config, options)

    def measured(seed: int, folder: Path) -> dict[str, Any]:
        own = options._replace(seed=seed)
        say(f"responses and gradients are kept in {folder}")
        return finished(judge(collect(config, own, folder, say), own, say), folder)

    def finished(result: dict[str, Any], folder: Path) -> dict[str, Any]:
        result["seconds"] = round(time.monotonic() - started, 1)
        if rank() == 0:
            print("\n".join(["", *report.report(result), ""]))
            facts = {"seed": result["options"]["seed"], **made_by}
            for path in write(folder, ESTIMATOR, report, result | facts):
                print(f"wrote {path}")
        return result

    if len(seeds) == 1:
        measured(seeds[0], folder)
    else:
        finished(pooled([measured(seed, folder / f"seed-{seed}") for seed in seeds]), folder)


def prepare(
    name: str, config: DictConfig, say: Callable[[str], None]
) -> tuple[ModuleType, "Stage"]:
    """Return the module of a probe and its stage, on verl's platform of the config."""
    prepare_verl(config)
    from recipe.probes.stage import Stage

    return importlib.import_module(f"recipe.probes.{name}"), Stage(config, say)


def write(folder: Path, name: str, probe: ModuleType, result: dict[str, Any]) -> list[Path]:
    """Write `report.md`, the picture and `result.json`; returns their paths."""
    report, picture, numbers = (folder / x for x in ("report.md", f"{name}.png", "result.json"))
    figure = plt.figure(figsize=(11, 4.5), layout="constrained")
    probe.draw(figure, result)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    lines = [
        f"# {name}, seed {str(result['seed']).strip('[]')}",
        "",
        *probe.report(result),
        "",
        f"![{name}]({picture.name})",
        "",
        f"{result['seconds']:.0f} s. Commit {result['commit']}; `{result['command']}`; {versions}.",
    ]
    report.write_text("\n".join(lines) + "\n")
    numbers.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    return [report, picture, numbers]


if __name__ == "__main__":
    main()
