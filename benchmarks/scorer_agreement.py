"""Measure how far this grader and the scorers of other packages agree on the same responses.

    python -m benchmarks.scorer_agreement measure --peer-python PEERS/bin/python   # some minutes
    python -m benchmarks.scorer_agreement measure --peer-python ... --rows SAMPLES.jsonl
    python -m benchmarks.scorer_agreement table --into README.md

PEERS is the environment of requirements/peer_scorers.txt; benchmarks/peer_scorers.py says which
scorers run in it and why those. Rows are the cases of tests/reward/cases.jsonl, whose expected
verdicts are this grader's policy, and those of files as `reward.grade` reads them (mathematics
only). Their column `expected`, or the one that `--label` names, holds a published verdict: true,
"correct" or a number above 0 for a correct response. The peers get what follows the
last `</think>`, as both packages cut thinking off before they score.

`result.json` counts, `disagreements.jsonl` has each row on which a peer's verdict is not ours.
"""

import json
import random
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.timing import SEED
from recipe.base.command import add_into, command_parser, errors_reported, show_table
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from reward.grade import read_line
from reward.grader import Grader, Row
from reward.math.extract import extract
from reward.sources import RewardSettings, Source

RESULTS = Path(__file__).parent / "results" / "scorer_agreement"
PEERS = Path(__file__).with_name("peer_scorers.py")
CASES = Path(__file__).parents[1] / "tests" / "reward" / "cases.jsonl"
SETTINGS = RewardSettings(workers=2)
IN_A_BOX = ", answer in a box"
SHOWN = 300
KS = [1, 2, 4, 8]

Fields = dict[str, Any]
Verdicts = dict[str, dict[str, bool | None]]


def read(path: Path) -> Iterator[tuple[Fields, Row]]:
    """Return the rows of a file that are mathematics, with their ids.

    Raises:
        ValueError: FILE:LINE is no row.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                fields, row = read_line(line, None, SETTINGS)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if isinstance(row.source, Source) and row.source.forms:
                yield {"id": f"{path.stem}:{number}", "set": path.stem, **fields}, row


def is_correct(label: Any) -> bool:
    """Return what a published verdict says."""
    return label == "correct" if isinstance(label, str) else label > 0


def graded(path: Path, label: str = "expected") -> list[Fields]:
    """Return the rows of a file with this grader's verdicts.

    Args:
        path: the file.
        label: the column of the published verdicts, if the file has one.
    """
    rows = list(read(path))
    with closing(Grader(SETTINGS)) as grader:
        verdicts = list(grader.grade_many(row for _, row in rows))
    return [
        {
            "id": fields["id"],
            "set": fields["set"],
            "category": fields.get("category") or fields.get("data_source") or "",
            "response": row.response,
            "ground_truth": row.ground_truth,
            "ours": verdict.outcome == "correct",
            "outcome": verdict.outcome,
            "extracted": verdict.extracted,
            "in_a_box": verdict.extracted is not None
            and extract(row.response, ("boxed",)) == verdict.extracted,
            "expected": is_correct(fields[label]) if label in fields else None,
        }
        for (fields, row), verdict in zip(rows, verdicts, strict=True)
    ]


def ask_peers(python: Path, rows: list[Fields]) -> Fields:
    """Return the peers' verdicts on the rows, from a process in their environment."""
    asked = [
        {
            "id": row["id"],
            "response": row["response"].rpartition("</think>")[2],
            "ground_truth": row["ground_truth"],
        }
        for row in rows
    ]
    return run_peers(python, "score", "".join(json.dumps(row) + "\n" for row in asked))


def run_peers(python: Path, part: str, text: str) -> Fields:
    """Run a part of the peers' script on a text."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "given", Path(folder) / "out"
        given.write_text(text, encoding="utf-8")
        subprocess.run([python, "-P", PEERS, part, given, out], check=True)
        return json.loads(out.read_text())


def random_verdicts(problems: int = 30) -> list[list[int]]:
    """Return lists of 8 to 12 verdicts, from a problem never solved to one always solved."""
    dice = random.Random(SEED)
    return [
        [int(dice.random() < number / (problems - 1)) for _ in range(8 + number % 5)]
        for number in range(problems)
    ]


def wrongs(rows: list[Fields], verdicts: dict[str, bool | None]) -> dict[str, int]:
    """Count false positives and negatives on the rows with an expected verdict."""
    told = [(row["expected"], verdicts[row["id"]]) for row in rows if row["expected"] is not None]
    return {
        "rows_with_expected": len(told),
        "false_positives": sum(verdict is True and not correct for correct, verdict in told),
        "false_negatives": sum(verdict is False and correct for correct, verdict in told),
    }


def compared(rows: list[Fields], verdicts: dict[str, bool | None]) -> Fields:
    """Count how often a peer agrees with this grader; a failure counts as no agreement."""
    pairs = Counter((row["ours"], verdicts[row["id"]]) for row in rows)
    return {
        "both_correct": pairs[True, True],
        "only_ours_correct": pairs[True, False],
        "only_peer_correct": pairs[False, True],
        "both_incorrect": pairs[False, False],
        "peer_failed": pairs[True, None] + pairs[False, None],
        "agreement_percent": 100 * (pairs[True, True] + pairs[False, False]) / len(rows),
        **wrongs(rows, verdicts),
    }


def summary(rows: list[Fields], peers: Verdicts) -> Fields:
    """Return all counts for each set of rows, and for its rows with a boxed answer."""
    sets = defaultdict(list)
    for row in rows:
        sets[row["set"]].append(row)
        if row["in_a_box"]:
            sets[row["set"] + IN_A_BOX].append(row)
    ours = {row["id"]: row["ours"] for row in rows}
    return {
        name: {
            "rows": len(members),
            "ours": wrongs(members, ours),
            "peers": {peer: compared(members, verdicts) for peer, verdicts in peers.items()},
        }
        for name, members in sorted(sets.items())
    }


def disagreements(rows: list[Fields], peers: Verdicts) -> list[Fields]:
    """Return the rows on which a peer disagrees with this grader, with the response's end."""
    return [
        {
            **{key: row[key] for key in ("id", "category")},
            "response": row["response"][-SHOWN:],
            **{key: row[key] for key in ("ground_truth", "ours", "outcome", "extracted")},
            "peers": {peer: verdicts[row["id"]] for peer, verdicts in peers.items()},
            **{key: row[key] for key in ("in_a_box", "expected")},
        }
        for row in rows
        if any(verdicts[row["id"]] is (not row["ours"]) for verdicts in peers.values())
    ]


def by_category(rows: list[Fields], peers: Verdicts) -> Fields:
    """Return, by category, rows and each peer's differing verdicts; the most disputed first."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row["category"]]["rows"] += 1
        for peer, verdicts in peers.items():
            found[row["category"]][peer] += verdicts[row["id"]] is (not row["ours"])
    order = sorted(found, key=lambda name: (found[name]["rows"] - found[name].total(), name))
    return {name: dict(found[name]) for name in order}


def table(result: Fields) -> list[str]:
    """Return a line for each set of rows and scorer; a dash where nothing was compared."""
    head = (
        "responses",
        "scorer",
        "agrees",
        "only ours right",
        "only it right",
        "failed",
        "false positives, negatives",
    )

    def against(found: Fields) -> str:
        told = found["rows_with_expected"]
        return f"{found['false_positives']}, {found['false_negatives']}" if told else "-"

    lines = []
    for name, part in result["sets"].items():
        where = f"{name} ({part['rows']:,})"
        lines.append((where, "this grader", "-", "-", "-", "-", against(part["ours"])))
        for peer, found in part["peers"].items():
            counts = (
                found[key] for key in ("only_ours_correct", "only_peer_correct", "peer_failed")
            )
            agrees = f"{found['agreement_percent']:.1f} %"
            lines.append((where, peer, agrees, *map(str, counts), against(found)))
    return markdown_table(head, lines)


def measure(python: Path, files: list[Path], label: str, results: Path) -> Fields:
    """Grade the rows, ask the peers, and write both files."""
    stems = [path.stem for path in (CASES, *files)]
    if len(set(stems)) < len(stems):
        raise ValueError(f"files of rows are told apart by name, and two have one: {stems}")
    rows = [*graded(CASES), *(row for path in files for row in graded(path, label))]
    said = ask_peers(python, rows)
    peers: Verdicts = {name: found["verdicts"] for name, found in said["scorers"].items()}
    lists = random_verdicts()
    counted = run_peers(python, "statistics", json.dumps({"problems": lists, "k": KS}))
    result = {
        "sets": summary(rows, peers),
        "disagreements_by_category": by_category(rows, peers),
        "errors": {name: found["errors"] for name, found in said["scorers"].items()},
        "statistics": {"problems": lists, "inspect_ai": counted["statistics"]},
        "peer_versions": said["versions"],
        "seed": SEED,
        **provenance("benchmarks.scorer_agreement"),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    with (results / "disagreements.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in disagreements(rows, peers))
    return result


def main() -> None:
    """Measure, or print the table."""
    parser = command_parser("benchmarks.scorer_agreement", __doc__)
    parser.add_argument("part", choices=["measure", "table"])
    parser.add_argument("--peer-python", type=Path, help="of the peers' environment, for measure")
    parser.add_argument("--rows", type=Path, nargs="+", default=[], help="further files of rows")
    parser.add_argument("--label", default="expected", help="their column of published verdicts")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the files go")
    add_into(parser, "agreement")
    given = parser.parse_args()
    if given.part == "measure":
        if given.peer_python is None:
            parser.error("measure needs --peer-python, e.g. PEERS/bin/python")
        measure(given.peer_python, given.rows, given.label, given.results)
    with errors_reported():
        show_table(
            table(json.loads((given.results / "result.json").read_text())), "agreement", given.into
        )


if __name__ == "__main__":
    main()
