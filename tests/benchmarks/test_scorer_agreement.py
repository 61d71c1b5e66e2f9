import ast
import json
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks import example_solutions
from benchmarks.scorer_agreement import (
    IN_A_BOX,
    PEERS,
    RESULTS,
    by_category,
    disagreements,
    graded,
    random_verdicts,
    summary,
    table,
)
from recipe.base.errors import UserError
from recipe.tasks.at_k import pass_at_k, standard_error

ROOT = Path(__file__).parents[2]
A_BOX, A_LINE = "\\boxed{34}", "Answer: 34"
# Recorded verdicts: one peer errs both ways and fails once, the other says what this grader says.
PEERS_SAY = {
    "one": {"a:1": True, "a:2": False, "a:3": True, "a:4": None, "b:1": False},
    "other": {"a:1": True, "a:2": True, "a:3": False, "a:4": False, "b:1": False},
}


def row(name, response, ours, expected, in_a_box=True):
    return {
        "id": name,
        "set": name.partition(":")[0],
        "category": "lines" if response == A_LINE else "boxes",
        "response": response,
        "ground_truth": "34",
        "ours": ours,
        "outcome": "correct" if ours else "incorrect",
        "extracted": "34",
        "in_a_box": in_a_box,
        "expected": expected,
    }


ROWS = [
    row("a:1", A_BOX, True, True),
    row("a:2", A_LINE, True, True, in_a_box=False),
    row("a:3", A_BOX, False, False),
    row("a:4", A_BOX, False, True),
    row("b:1", "x" * 500 + A_BOX, False, None),
]


def test_every_row_is_counted_once_for_each_peer():
    found = summary(ROWS, PEERS_SAY)
    assert list(found) == ["a", "a" + IN_A_BOX, "b", "b" + IN_A_BOX]
    one = found["a"]["peers"]["one"]
    kinds = (
        "both_correct",
        "only_ours_correct",
        "only_peer_correct",
        "both_incorrect",
        "peer_failed",
    )
    assert [one[kind] for kind in kinds] == [1, 1, 1, 0, 1]
    assert one["agreement_percent"] == 25
    other = found["a"]["peers"]["other"]
    assert [other[kind] for kind in kinds] == [2, 0, 0, 2, 0]
    assert other["agreement_percent"] == 100
    assert found["a" + IN_A_BOX]["rows"] == 3
    assert found["a" + IN_A_BOX]["peers"]["one"]["only_ours_correct"] == 0


def test_incorrect_verdicts_are_counted_where_one_is_expected():
    found = summary(ROWS, PEERS_SAY)
    told = {"rows_with_expected": 4}
    assert found["a"]["ours"] == told | {"false_positives": 0, "false_negatives": 1}
    one = found["a"]["peers"]["one"]
    assert (one["false_positives"], one["false_negatives"]) == (1, 1)  # a failure is neither
    assert found["b"]["ours"]["rows_with_expected"] == 0


def test_disagreements_are_the_rows_on_which_a_peer_decides_otherwise():
    found = disagreements(ROWS, PEERS_SAY)
    assert [row["id"] for row in found] == ["a:2", "a:3"]
    assert found[0]["peers"] == {"one": False, "other": True}
    [long] = disagreements(ROWS[-1:], {"one": {"b:1": True}})
    assert len(long["response"]) == 300
    assert long["response"].endswith(A_BOX)


def test_the_most_disputed_category_comes_first():
    assert by_category(ROWS[:3], PEERS_SAY) == {
        "boxes": {"rows": 2, "one": 1, "other": 0},
        "lines": {"rows": 1, "one": 1, "other": 0},
    }


def test_the_table_has_a_line_for_each_set_and_scorer():
    lines = table({"sets": summary(ROWS, PEERS_SAY)})
    assert len(lines) == 2 + 4 * 3
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[3] == ["a (4)", "one", "25.0 %", "1", "1", "1", "1, 1"]
    assert cells[8] == ["b (1)", "this grader", "-", "-", "-", "-", "-"]


def test_rows_are_graded_by_their_source_and_code_is_left_out(tmp_path):
    both = "Answer: 34\n\\boxed{35}"
    lines = [
        {"response": both, "ground_truth": "34", "data_source": "math_dapo", "expected": "correct"},
        {"response": both, "ground_truth": "34", "category": "own"},
        {"response": "```python\n```", "tests": {"inputs": ["1"], "outputs": ["1"]}},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = graded(path)
    assert (first["id"], first["ours"], first["expected"]) == ("samples:1", True, True)
    assert (first["category"], first["in_a_box"]) == ("math_dapo", False)
    assert (second["ours"], second["expected"], second["in_a_box"]) == (False, None, True)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl:1: no text in response"):
        graded(path)


def test_the_peers_script_needs_nothing_of_this_project():
    nodes = list(ast.walk(ast.parse(PEERS.read_text())))
    names = {part.name for node in nodes if isinstance(node, ast.Import) for part in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in names}
    assert packages - set(sys.stdlib_module_names) == {"lm_eval", "inspect_ai"}


def test_this_projects_statistics_are_those_of_inspect_ai():
    """Recorded from inspect_ai's own reducers and metrics, on lists of unequal length."""
    recorded = json.loads((RESULTS / "result.json").read_text())["statistics"]
    problems, found = recorded["problems"], recorded["inspect_ai"]
    assert problems == random_verdicts()
    means = [statistics.fmean(values) for values in problems]
    assert found["mean"] == pytest.approx(statistics.fmean(means))
    assert found["stderr"] == pytest.approx(standard_error(means))
    for k, value in found["pass_at"].items():
        chances = [pass_at_k([sum(values)], len(values), int(k))[0] for values in problems]
        assert value == pytest.approx(statistics.fmean(chances))
    samples = [value for values in problems for value in values]
    clusters = [number for number, values in enumerate(problems) for _ in values]
    assert found["stderr_clustered"] == pytest.approx(standard_error(samples, clusters))


def test_this_grader_gives_every_case_its_expected_verdict():
    result = json.loads((RESULTS / "result.json").read_text())
    ours = result["sets"]["cases"]["ours"]
    assert (ours["false_positives"], ours["false_negatives"]) == (0, 0)


def test_another_column_may_hold_the_published_verdicts(tmp_path):
    labels = [True, False, 1, 0.0, "correct", "incorrect"]
    row = {"response": A_BOX, "ground_truth": "34"}
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row | {"verdict": label}) + "\n" for label in labels))
    assert [one["expected"] for one in graded(path, "verdict")] == [True, False] * 3
    assert {one["expected"] for one in graded(path)} == {None}


SOLUTIONS = {
    "question": "1 + 17",
    "ground_truth": "It is 18.\nA: 18",
    "small": {"solution": "1 + 17 = 18\nA: 18", "is_correct": True},
    "large": {"solution": "A: 17\nNo", "is_correct": False},
}


def test_published_solutions_become_rows_with_their_verdicts(tmp_path):
    path = tmp_path / "example_model_solutions.jsonl"
    path.write_text(json.dumps(SOLUTIONS) + "\n")
    small, large = example_solutions.rows(path)
    assert small == {
        "category": "small",
        "data_source": "gsm8k",
        "response": "1 + 17 = 18\nA: \\boxed{18}",
        "ground_truth": "18",
        "is_correct": True,
    }
    assert (large["response"], large["is_correct"]) == ("A: \\boxed{17}\nNo", False)
    path.write_text(json.dumps(SOLUTIONS) + "\n" + '{"ground_truth": "18"}\n')
    with pytest.raises(UserError, match=r"solutions\.jsonl:2 is no problem with solutions"):
        list(example_solutions.rows(path))
