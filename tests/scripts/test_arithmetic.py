import ast
import operator
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.score import compute_score
from scripts import arithmetic

TASKS = sorted(arithmetic.TASKS)


def value(expression: str) -> int:
    """What Python's own grammar says an expression is worth."""
    signs = {ast.Add: operator.add, ast.Sub: operator.sub}

    def visit(node):
        if isinstance(node, ast.BinOp):
            return signs[type(node.op)](visit(node.left), visit(node.right))
        return node.value

    return visit(ast.parse(expression, mode="eval").body)


@pytest.fixture(scope="module")
def splits():
    return arithmetic.draw_expressions(seed=0)


def test_train_and_validation_share_no_expression(splits):
    train, val = set(splits["train"]), set(splits["val"])
    assert (len(train), len(val)) == (len(splits["train"]), len(splits["val"])) == (8192, 256)
    assert not train & val


def test_expressions_are_the_same_for_the_same_seed_only(splits):
    assert arithmetic.draw_expressions(seed=0) == splits
    assert arithmetic.draw_expressions(seed=1) != splits


def test_worked_solutions_without_slips_end_in_the_true_answer(splits):
    for expression in splits["val"]:
        for checked in (False, True):
            solution = arithmetic.worked_solution(expression, checked=checked)
            assert solution.splitlines()[-1] == f"Answer: {value(expression)}"
            assert arithmetic.is_correct(solution, expression)


@given(st.data())
def test_a_slip_shifts_the_answer_by_what_it_adds(data):
    expression = "3 + 8 - 2 + 5"
    slips = data.draw(st.lists(st.sampled_from([-2, -1, 0, 1, 2]), min_size=6, max_size=6))
    solution = arithmetic.worked_solution(expression, slips, checked=True)
    assert solution.splitlines()[-1] == f"Answer: {value(expression) + sum(slips)}"


@pytest.mark.parametrize("task", TASKS)
def test_the_project_reward_agrees_with_the_check_of_the_warm_start(task, splits):
    random = Random(1)
    verdicts = set()
    for expression in splits["val"]:
        solution = arithmetic.draw_solution(arithmetic.TASKS[task], expression, random)
        score = compute_score("math_dapo", solution, str(value(expression)))
        assert bool(score["acc"]) == arithmetic.is_correct(solution, expression)
        verdicts.add(score["acc"])
    assert verdicts == {0.0, 1.0}


def lengths_by_verdict(task):
    random = Random(2)
    found = {True: [], False: []}
    expressions = arithmetic.draw_expressions(0)["train"][:4000]
    for expression in expressions:
        solution = arithmetic.draw_solution(arithmetic.TASKS[task], expression, random)
        # Lines per step: expressions of all sizes slip, longer ones more often.
        num_steps = len(arithmetic.results(expression))
        lines = len(solution.splitlines()) / num_steps
        found[arithmetic.is_correct(solution, expression)].append(lines)
    return [sum(found[verdict]) / len(found[verdict]) for verdict in (False, True)]


def test_in_the_solutions_of_length_gap_wrong_ones_are_longer():
    incorrect, right = lengths_by_verdict("length_gap")
    assert incorrect > 1.2 * right


def test_in_the_solutions_of_length_spread_length_says_little_about_right_and_wrong():
    incorrect, right = lengths_by_verdict("length_spread")
    assert incorrect == pytest.approx(right, rel=0.15)


REMARKED = {name: task for name, task in arithmetic.TASKS.items() if task.remarks}


@pytest.mark.parametrize("name", REMARKED)
def test_remarks_follow_each_step_by_whether_a_guess_was_made_and_change_nothing(name):
    task, random, counts = REMARKED[name], Random(3), {False: set(), True: set()}
    for expression in arithmetic.draw_expressions(0)["val"]:
        solution = arithmetic.draw_solution(task, expression, random)
        steps = solution.replace("\n" + arithmetic.REMARK, "!").splitlines()[:-1]
        assert len(steps) == len(arithmetic.results(expression))
        guessed, last = False, expression.split()[0]
        for step in steps:
            text, remarks = step.rstrip("!"), step.count("!")
            is_guess = arithmetic.GUESS in text
            left, right = text.split(arithmetic.GUESS if is_guess else " = ")
            start, operator, number = left.split()
            assert start == last
            assert (int(start) + int(operator + number) != int(right)) == is_guess
            assert int(right) in arithmetic.RESULTS or not is_guess
            guessed, last = guessed or is_guess, right
            counts[guessed].add(remarks)
        assert solution.endswith(f"Answer: {last}")
        if not guessed:
            assert arithmetic.is_correct(solution, expression)
    assert counts == {False: set(task.remarks[0]), True: set(task.remarks[1])}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("wrong_longer", 1.2, 3), ("level", 0.9, 1.1), ("wrong_shorter", 0.3, 0.8)],
)
@pytest.mark.parametrize("lengths", ["steady", "varied"])
def test_remarks_decide_which_responses_are_longer(name, lengths, low, high):
    incorrect, right = lengths_by_verdict(f"{name}_{lengths}")
    assert low <= incorrect / right <= high


def test_rows_are_in_the_schema_of_dapo_math_17k(tmp_path):
    path = tmp_path / "val.parquet"
    arithmetic.write_parquet("val", ["3 + 8 - 2"], path)
    table = pq.read_table(path)
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    [row] = table.to_pylist()
    [message] = row["prompt"]
    assert message["role"] == "user"
    assert message["content"].endswith("3 + 8 - 2")
    assert "Answer:" in message["content"]
    assert row["reward_model"] == {"ground_truth": "9", "style": "rule-lighteval/MATH_v2"}
    assert (row["data_source"], row["ability"]) == ("math_dapo", "MATH")
    assert isinstance(row["extra_info"]["index"], str)
