"""Say which aggregation rule each setting of other training frameworks is.

    python -m benchmarks.conformance.tables measured    # what each setting is
    python -m benchmarks.conformance.tables wanted      # what to set for a rule
    python -m benchmarks.conformance.tables run         # what was run, in which version
    python -m benchmarks.conformance.tables read        # what was read and not run

The results are those of `python -m benchmarks.conformance`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conformance.__main__ import PEERS, RESULTS
from benchmarks.conformance.fixtures import LIMIT, N
from benchmarks.conformance.match import Verdict, judge, runs_of
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.maths.rules import RULES

READ_ONLY = Path(__file__).with_name("read_only.json")
NAMES = {1.0: "1", float(LIMIT): "length limit", float(N * LIMIT): "responses x length limit"}
Result = dict[str, Any]


def results() -> list[Result]:
    """Return the results of all frameworks.

    Raises:
        UserError: one is missing.
    """
    missing = [peer for peer in PEERS if not (RESULTS / f"{peer}.json").exists()]
    if missing:
        raise UserError(
            f"there is no result of {missing[0]}. Run python -m benchmarks.conformance --peer "
            f"{missing[0]}."
        )
    return [json.loads((RESULTS / f"{peer}.json").read_text()) for peer in PEERS]


def dependence(verdict: Verdict) -> str:
    """Return what a token's weight depends on, and by how much."""
    causes = sorted(verdict.depends.items(), key=lambda item: -item[1])
    parts = [f"on {cause} by up to {100 * change:.0f} %" for cause, change in causes]
    return "depends " + ", ".join(parts)


def described(verdict: Verdict) -> str:
    """Return what a setting is, in words."""
    if verdict.rule is not None:
        words = f"`{verdict.rule}`"
        return f"{words}; {dependence(verdict)}" if verdict.depends else words
    if verdict.unpacked is not None:
        packed = "no rule if micro-batches are packed by tokens"
        return f"`{verdict.unpacked}`, {packed}; {dependence(verdict)}"
    words = f"**no rule**: {dependence(verdict)}"
    return f"{words}; `{verdict.alone}` on one micro-batch" if verdict.alone else words


def factor(verdict: Verdict) -> str:
    """Return how large the gradient is beside that of the rule."""
    if verdict.factor is None:
        return "-"
    for value, name in NAMES.items():
        if abs(verdict.factor / value - 1) < 1e-4:
            return name
    return f"{verdict.factor:.3g}"


def setting_of(setting: Result) -> str:
    """Return a setting as a user writes it, with its default marked."""
    return f"`{setting['setting']}`" + (" (default)" if setting["default"] else "")


def versioned(result: Result) -> str:
    """Return a framework's name and version."""
    return f"{result['framework']} {result['versions'][result['package']]}"


def measured(found: Sequence[Result]) -> list[str]:
    """Return what each setting is."""
    rows = []
    for result in found:
        what = "function loaded alone" if result["how"].startswith("function") else "training step"
        for setting in result["settings"]:
            verdict = judge(runs_of(setting))
            row = setting_of(setting), described(verdict), factor(verdict), what
            rows.append((versioned(result), *row))
    header = ("framework", "setting", "is the rule", "gradient, times", "what was run")
    return markdown_table(header, rows)


def wanted(found: Sequence[Result]) -> list[str]:
    """Return what to set for a rule: the settings that were measured to be it."""
    settings: dict[str, dict[str, list[str]]] = {name: {} for name in RULES}
    for result in found:
        for setting in result["settings"]:
            verdict = judge(runs_of(setting))
            rule = verdict.rule or verdict.unpacked
            if rule is None or setting["other_loss"]:
                continue
            size = factor(verdict)
            words = f"`{setting['setting']}`" + ("" if size in ("1", "-") else f" (times {size})")
            settings[rule].setdefault(result["framework"], []).append(words)
    frameworks = [result["framework"] for result in found]
    rows = [
        (f"`{name}`", *(" or ".join(settings[name].get(each, ["-"])) for each in frameworks))
        for name in RULES
        if settings[name]
    ]
    without = ", ".join(f"`{name}`" for name in RULES if not settings[name])
    return [
        *markdown_table(("rule", *frameworks), rows),
        "",
        f"No measured setting is one of the rules {without}.",
    ]


def run(found: Sequence[Result]) -> list[str]:
    """Return what was run of each framework."""
    rows = [
        (versioned(result), result["how"], ", ".join(f"`{name}`" for name in result["functions"]))
        for result in found
    ]
    return markdown_table(("framework", "what was run", "where the loss is made"), rows)


def read(found: Sequence[Result]) -> list[str]:
    """Return the settings whose code was read and not run."""
    rows = []
    for row in json.loads(READ_ONLY.read_text())["rows"]:
        rule = f"`{row['rule']}`" if row["rule"] else "no rule"
        source = ", ".join(f"`{name}`" for name in row["source"].split(", "))
        rows.append(
            (
                f"{row['framework']} {row['commit'][:9]}",
                setting_of(row),
                f"{rule}: {row['why']}",
                source,
            )
        )
    return markdown_table(("framework, commit", "setting", "read, not run", "source"), rows)


TABLES = {"measured": measured, "wanted": wanted, "run": run, "read": read}


def main() -> None:
    """Print a table, or write it into a document."""
    command = command_parser("benchmarks.conformance.tables", __doc__)
    verbs = command.add_subparsers(dest="verb", required=True)
    for verb in TABLES:
        add_into(verbs.add_parser(verb), f"frameworks_{verb}")
    given = command.parse_args()
    with errors_reported():
        show_table(TABLES[given.verb](results()), f"frameworks_{given.verb}", given.into)


if __name__ == "__main__":
    main()
