import inspect
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward import grader
from reward.score import COUNTED, MAX_PRED_CHARS, compute_score

CORRECT, INCORRECT, NOTHING = "Answer: 34", "Answer: 35", "I do not know."


@pytest.mark.parametrize(
    ("source", "otherwise"),
    [("math_dapo", -1.0), ("aime24", -1.0), ("aime_2025", -1.0), ("polaris", 0.0)],
)
def test_scores_are_on_the_published_scale_of_the_source(source, otherwise):
    assert compute_score(source, CORRECT, "34")["score"] == 1.0
    assert compute_score(source, INCORRECT, "34")["score"] == otherwise
    assert compute_score(source, NOTHING, "34")["score"] == otherwise


@pytest.mark.parametrize("source", ["math_dapo", "aime24", "polaris", "math500"])
def test_each_outcome_has_its_own_column_and_all_rows_have_the_same_columns(source):
    answers = {
        "correct": CORRECT,
        "incorrect": INCORRECT,
        "no_answer": NOTHING,
        "parse_error": "Answer: \\foo{",
    }
    rows = {outcome: compute_score(source, text, "34") for outcome, text in answers.items()}
    for outcome, row in rows.items():
        assert row["acc"] == (outcome == "correct")
        assert [name for name in COUNTED if row[name]] == [outcome] * (outcome != "correct")
        assert row["seconds"] > 0
        assert math.isfinite(row["score"])
    assert [rows[o]["pred"] for o in ("correct", "incorrect", "no_answer")] == ["34", "35", ""]
    assert len({tuple(row) for row in rows.values()}) == 1


@pytest.mark.parametrize(
    ("source", "response", "in_form"),
    [
        ("math_dapo", "Answer: 35", 1.0),
        ("math_dapo", "\\boxed{34}", 0.0),
        ("polaris", "\\boxed{35}", 1.0),
        ("polaris", "Answer: 34", 0.0),
        # The fast path cannot decide these, so a process does.
        ("polaris", "Answer: \\log_2 2^{34}", 0.0),
        ("polaris", "\\boxed{\\log_2 2^{34}}", 1.0),
        ("polaris", NOTHING, 0.0),
        ("livecodebench", "```python\nprint(3)\n```", 1.0),
        ("livecodebench", "print(2)", 0.0),
    ],
)
def test_format_is_1_for_the_form_that_the_source_asks_for_whatever_the_verdict(
    source, response, in_form
):
    truth = json.dumps({"inputs": [""], "outputs": ["2"]}) if "code" in source else "34"
    assert compute_score(source, response, truth)["format"] == in_form


def test_a_scorer_of_your_own_has_the_format_that_it_returns():
    settings = {"sources": {"other": f"{__name__}:own_scorer", "formal": f"{__name__}:formal"}}
    assert "format" not in compute_score("other", CORRECT, "34", {"index": 7}, **settings)
    assert compute_score("formal", CORRECT, "34", {}, **settings)["format"] == 0.5


def formal(response, ground_truth, extra_info):
    return {"score": 1.0, "format": 0.5}


@pytest.mark.parametrize(
    ("answer", "acc", "strict"),
    [
        ("4.2", 1, 1),
        ("4.3", 1, 0),
        ("4.1\\%", 1, 0),
        ("4.31", 0, 0),
        ("4.2, 4.3", 0, 0),
        ("r = 4.3", 1, 0),
        ("r = 5 = 4.3", 0, 0),
    ],
)
def test_a_number_within_the_rows_tolerance_is_correct_unless_switched_off(answer, acc, strict):
    given = ("olympiadbench", f"\\boxed{{{answer}}}", "4.2", {"tolerance": "1e-1"})
    assert compute_score(*given)["acc"] == acc
    assert compute_score(*given, apply_tolerance=False)["acc"] == strict
    assert compute_score(*given[:3], {"tolerance": None})["acc"] == strict


def test_equal_answers_vote_together():
    responses = ("Answer: 0.5", "Answer: $\\frac{1}{2}$", "\\boxed{2/4}", "Answer: x = 1/2")
    assert {compute_score("math_dapo", response, "34")["pred"] for response in responses} == {"1/2"}


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("mawps", CORRECT, "34"), {}, "data_source is 'mawps'; known ones are math_dapo, aime"),
        (("AIME24", CORRECT, "34"), {}, "data_source is 'AIME24'"),
        (("math_dapo", CORRECT, ""), {}, "ground truth is ''"),
        (("math_dapo", NOTHING, None), {}, "ground truth is None"),
        (("livecodebench", "```\n1\n```", "34"), {}, "`tests` is a int"),
        (
            ("math_dapo", CORRECT, "34"),
            {"deadlin": 1},
            "'deadlin' does not exist; there are thinking",
        ),
        (("math_dapo", CORRECT, "34"), {"thinking": "x"}, "thinking is 'x'; it may be after"),
        (("math_dapo", CORRECT, "34"), {"workers": 0}, "workers is 0; it must be positive"),
        (("math500", CORRECT, "34", {"tolerance": "some"}), {}, "tolerance is 'some'; it must be"),
        ((3, CORRECT, "34"), {}, "data_source is 3; it must be a string"),
        (("mine", CORRECT, "34"), {"sources": {"mine": "no.such:thing"}}, "cannot be imported"),
        (("mine", CORRECT, "34"), {"sources": {"mine": "math:pi"}}, "not a function"),
        (("mine", CORRECT, "x"), {"sources": {"mine": "builtins:int"}}, "TypeError"),
    ],
)
def test_a_fault_outside_the_response_gives_nan_and_the_reason(arguments, settings, said):
    row = compute_score(*arguments, **settings)
    assert math.isnan(row["score"])
    assert said in row["error"]
    assert set(row) == set(compute_score("math_dapo", CORRECT, "34"))


def test_broken_machinery_gives_nan_and_never_a_score(monkeypatch):
    from reward.math import pool

    def broken(self):
        raise OSError("no more processes")

    monkeypatch.setattr(pool.Pool, "_fork", broken)
    row = compute_score("math_dapo", "Answer: 2\\sqrt{x}", "34", deadline=4.5)
    assert math.isnan(row["score"])
    assert "no more processes" in row["error"]


def own_scorer(response, ground_truth, extra_info):
    """Score like a scorer that a user writes."""
    return {"score": float(ground_truth in response), "index": extra_info["index"]}


def test_a_data_source_of_your_own_uses_a_known_one_or_a_scorer():
    settings = {"sources": {"mine": "polaris", "other": f"{__name__}:own_scorer"}}
    assert compute_score("mine", "\\boxed{35}", "34", **settings)["score"] == 0.0
    row = compute_score("other", "it is 34", "34", {"index": 7}, **settings)
    assert (row["score"], row["acc"], row["index"]) == (1.0, 1.0, 7)
    assert compute_score("other", "", "34", {"index": 7}, **settings)["acc"] == 0.0


def test_only_the_asked_form_counts_if_the_settings_say_so():
    assert compute_score("math_dapo", "\\boxed{34}", "34")["acc"] == 1.0
    assert compute_score("math_dapo", "\\boxed{34}", "34", asked_form_only=True)["no_answer"] == 1.0


def test_code_is_scored_by_its_tests():
    tests = json.dumps({"inputs": ["2"], "outputs": ["4"]})
    program = "```python\nprint(2 * int(input()))\n```"
    assert compute_score("livecodebench", program, tests)["score"] == 1.0
    assert compute_score("livecodebench_v6", program.replace("2", "3"), tests)["incorrect"] == 1.0


def test_a_long_answer_is_cut_in_the_column_of_predictions():
    row = compute_score("math_dapo", "Answer: " + "9" * 4000, "9" * 4000)
    assert row["acc"] == 1.0
    assert len(row["pred"]) == MAX_PRED_CHARS


def test_verl_can_pass_its_arguments_by_name():
    row = compute_score(
        data_source="polaris",
        solution_str="\\boxed{34}",
        ground_truth="34",
        extra_info={"num_turns": 2, "rollout_reward_scores": {}},
        reward_router_address="127.0.0.1:8000",
        reward_model_tokenizer=None,
    )
    assert row["score"] == 1.0
    # verl awaits coroutine functions and runs other functions in a thread.
    assert not inspect.iscoroutinefunction(compute_score)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "response",
    [
        "Answer: " + "9" * 3500 + "e999",
        "Answer: $" + "(" * 7 + "2" + ")^{32}" * 7 + "$",
        "\\boxed{" + "\\\uff5b" * 700 + "5" + "\\\uff5d" * 700 + "}",
        "\\boxed{" + "\\lbrace " * 290 + "5" + "\\rbrace " * 290 + "}",
    ],
)
def test_extreme_responses_get_a_score(response):
    row = compute_score("math_dapo", response, "34")
    assert row["score"] == -1.0
    tests = json.dumps({"inputs": ["1"], "outputs": ["1"]})
    assert compute_score("livecodebench", f"```\n{response}\n```", tests)["score"] == 0.0


def test_at_most_as_many_programs_run_at_once_as_there_are_workers(monkeypatch):
    running, most = [0], [0]
    original = grader.grade_code

    def counted(*args, **named):
        running[0] += 1
        most[0] = max(most[0], running[0])
        try:
            return original(*args, **named)
        finally:
            running[0] -= 1

    monkeypatch.setattr(grader, "grade_code", counted)
    tests = json.dumps({"inputs": [""], "outputs": ["1"]})
    program = "```python\nimport time\ntime.sleep(0.5)\n```"
    with ThreadPoolExecutor(6) as executor:
        list(
            executor.map(
                lambda _: compute_score("livecodebench", program, tests, workers=2), range(6)
            )
        )
    assert most == [2]
