"""Explain a run: what other aggregation rules would have done with its responses.

    python -m recipe.analyze outputs/rollouts                       # a folder of dumps
    python -m recipe.analyze outputs/rollouts --tokenizer Qwen/Qwen3-1.7B
    python -m recipe.analyze outputs/rollouts/1.jsonl --rule sequence --advantage dr_grpo
    python -m recipe.analyze run.csv --columns prompt=question,length=tokens,reward=score

Reads dumps of verl, TRL, SkyRL, prime-rl and slime, and any table whose columns are named. Writes
analysis.md, two pictures and analysis.json to --out.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipe.analysis.advantages import ESTIMATORS, group_advantages
from recipe.analysis.counterfactual import analyse
from recipe.analysis.readers.choose import READERS, choose
from recipe.analysis.readers.table import ROLES, parse_columns
from recipe.analysis.report import write_analysis
from recipe.analysis.rollouts import Options, Rollouts
from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.provenance import provenance
from recipe.maths.rules import MICRO, RULES, Rule, with_positive_factor

LEARNED = "lambda"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("recipe.analyze", __doc__)
    add = command.add_argument
    add(
        "dumps",
        nargs="+",
        type=Path,
        metavar="DUMP",
        help="files or folders that a run filled with its responses",
    )
    add(
        "--format",
        choices=list(READERS),
        help="the framework that wrote them (default: recognised by the first file)",
    )
    add(
        "--columns",
        type=str,
        metavar="ROLE=NAME,...",
        help=f"read a table with these columns; the roles are {', '.join(ROLES)}",
    )
    add(
        "--rule",
        choices=[name for name in RULES if name != MICRO],
        help="the rule the run trained with (default: that of the framework: "
        + ", ".join(f"{name} {reader.default_rule}" for name, reader in READERS.items())
        + ")",
    )
    add(
        "--advantage",
        choices=list(ESTIMATORS),
        help="; ".join(f"{name}: {formula}" for name, formula in ESTIMATORS.items())
        + " (default: the advantages in the dump, else grpo)",
    )
    add("--exponent", type=float, metavar="X", help=f"also show the rule {LEARNED}, at this one")
    add(
        "--positive-factor",
        type=float,
        default=1.0,
        metavar="X",
        help="factor of the weights of positive advantages, under every rule (default: 1)",
    )
    of_length = command.add_mutually_exclusive_group()
    of_length.add_argument("--length-column", metavar="NAME", help="column with token counts")
    of_length.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="count the tokens of responses by it: a folder, or a name on the Hugging Face hub",
    )
    add("--skip-bad", action="store_true", help="go on without lines that cannot be used")
    add("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: outputs/analysis/NAME OF THE DUMP'S FOLDER)",
    )
    return command


def main() -> None:
    """Analyse the dumps, and report errors in one paragraph."""
    arguments = parser().parse_args()
    # Steps are small: on a busy machine threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    with errors_reported():
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Read, analyse, print, write.

    Raises:
        UserError: the dump or an argument cannot be used.
    """
    if not 0 <= arguments.positive_factor < math.inf:
        raise UserError(
            f"--positive-factor is {arguments.positive_factor:g}, but must be a number from 0 on."
        )
    columns = {} if arguments.columns is None else parse_columns(arguments.columns)
    options = Options(
        arguments.tokenizer, arguments.length_column, columns, skip_bad=arguments.skip_bad
    )
    if columns and arguments.format not in (None, "table", "slime"):
        raise UserError(
            f"--format is {arguments.format}, whose columns are known, but --columns is given too. "
            f"Leave one of them out."
        )
    reader, files = choose(arguments.dumps, arguments.format or ("table" if columns else None))
    trained = arguments.rule or reader.default_rule
    rules = with_positive_factor(
        chosen_rules(trained, arguments.exponent), arguments.positive_factor
    )
    rollouts = reader.read(files, options)
    if rollouts.lengths.warning:
        print(f"warning: {rollouts.lengths.warning}", file=sys.stderr)
    check_groups(rollouts)
    advantage_N, how = chosen_advantages(rollouts, arguments.advantage)
    analysis = analyse(
        rollouts.step_N,
        rollouts.group_N,
        rollouts.length_N,
        advantage_N,
        rules,
        trained,
        arguments.seed,
    )
    origin = {"seed": arguments.seed, **provenance("recipe.analyze")}
    origin["versions"]["numpy"] = np.__version__
    folder = arguments.out or default_folder(arguments.dumps[0])
    said, written = write_analysis(
        folder,
        analysis,
        "characters" if rollouts.lengths.warning else "tokens",
        premises(rollouts, reader.name, trained, how, arguments.positive_factor),
        origin,
    )
    print(said)
    for path in written:
        print(f"wrote {path}")


def chosen_rules(trained: str, exponent: float | None) -> Mapping[str, Rule]:
    """Return every rule that dumps tell the weights of; the learned one only with an exponent.

    Raises:
        UserError: the run trained with the learned one, and its exponent is not given.
    """
    rules = {name: rule for name, rule in RULES.items() if name not in (LEARNED, MICRO)}
    if exponent is not None:
        rules[LEARNED] = partial(learned, exponent=exponent)
    elif trained == LEARNED:
        raise UserError(f"the rule {LEARNED} needs its exponent: give it with --exponent X.")
    return rules


def chosen_advantages(rollouts: Rollouts, estimator: str | None) -> tuple[np.ndarray, str]:
    """Return the advantages to analyse with, and where they come from in words.

    Raises:
        UserError: an estimator is asked for, but the dump has no single score.
    """
    if estimator is None and rollouts.advantage_N is not None:
        return rollouts.advantage_N, "the advantages in the dump"
    if np.isnan(rollouts.score_N).any():
        raise UserError(
            f"--advantage is {estimator}, but the dump has advantages and no single score per "
            f"response. Leave --advantage out, or name a column of scores with --columns "
            f"prompt=NAME,response=NAME,reward=NAME."
        )
    name = estimator or "grpo"
    advantage_N = group_advantages(
        rollouts.score_N, rollouts.group_N, rollouts.sample_N, rollouts.output_N, name
    )
    return advantage_N, f"the advantage `{name}` (--advantage): {ESTIMATORS[name]}"


def learned(*columns: Tensor, exponent: float) -> Tensor:
    """Return the weights of the learned rule at a given exponent.

    Raises:
        UserError: it is undefined for these lengths.
    """
    try:
        return RULES[LEARNED](*columns, exponent=exponent)
    except ValueError as error:
        raise UserError(f"--exponent cannot be used with groups this large: {error}.") from None


def check_groups(rollouts: Rollouts) -> None:
    """Check that some group has two samples and some response a length.

    Raises:
        UserError: no group or no response has.
    """
    if not (rollouts.length_N > 0).any():
        raise UserError("every response has length 0. Name another column with --length-column.")
    samples = np.unique(np.stack([rollouts.group_N, rollouts.sample_N]), axis=1)[0]
    if np.bincount(samples).max() < 2:
        raise UserError(
            f"none of {len(samples)} groups by {rollouts.grouped_by} has two responses, but "
            f"rules compare at least 2 responses per prompt. Give dumps of training with several "
            f"responses per prompt (in verl, actor_rollout_ref.rollout.n above 1)."
        )


def premises(rollouts: Rollouts, form: str, rule: str, advantages: str, factor: float) -> list[str]:
    """Describe what was read and what was assumed."""
    num_empty = int((rollouts.length_N == 0).sum())
    steps = rollouts.step_N
    read = (
        f"Read: {len(steps):,} responses in {rollouts.group_N.max() + 1:,} groups of steps "
        f"{steps.min()} to {steps.max()} in the format {form}; left out: {rollouts.num_padding} "
        f"padding rows, {rollouts.num_bad} bad lines."
    )
    assumed = (
        f"Assumed: trained with the rule `{rule}` (--rule) and {advantages}, all responses of a "
        f"step in one train batch."
    )
    found = [read, assumed, f"Lengths are {rollouts.lengths.unit}."]
    if factor != 1:
        found.append(
            f"Under every rule positive advantages have a factor of {factor:g} (--positive-factor)."
        )
    found.append(
        "All responses count: what settings may have left out of the objective (truncated "
        "responses, groups without variance, rejected tokens) is not in a dump. The rule "
        f"{LEARNED} is shown, if asked for, at one exponent and with its default spread."
    )
    if num_empty:
        found.append(f"{num_empty} responses of length 0 count in advantages and in no objective.")
    found += rollouts.notes
    warning = rollouts.lengths.warning
    return [*found, f"Warning: {warning}"] if warning else found


def default_folder(dump: Path) -> Path:
    """Return `outputs/analysis/` and the name of the dump's folder."""
    dump = dump.resolve()
    return Path("outputs/analysis") / (dump if dump.is_dir() else dump.parent).name


if __name__ == "__main__":
    main()
