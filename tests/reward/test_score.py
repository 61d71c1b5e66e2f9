import inspect

import pytest

from reward.score import MAX_PRED_CHARS, compute_score

RIGHT, WRONG, NOTHING = "Answer: 34", "Answer: 35", "I do not know."


@pytest.mark.parametrize(
    ("source", "otherwise"),
    [("math_dapo", -1.0), ("aime24", -1.0), ("aime_2025", -1.0), ("polaris", 0.0)],
)
def test_scores_are_on_the_published_scale_of_the_source(source, otherwise):
    assert compute_score(source, RIGHT, "34")["score"] == 1.0
    assert compute_score(source, WRONG, "34")["score"] == otherwise
    assert compute_score(source, NOTHING, "34")["score"] == otherwise


@pytest.mark.parametrize("source", ["math_dapo", "aime24", "polaris"])
def test_each_outcome_has_its_own_row_and_all_rows_have_the_same_keys(source):
    rows = [compute_score(source, response, "34") for response in (RIGHT, WRONG, NOTHING)]
    assert [(row["acc"], row["no_answer"], row["pred"]) for row in rows] == [
        (1.0, 0.0, "34"),
        (0.0, 0.0, "35"),
        (0.0, 1.0, ""),
    ]
    assert {tuple(row) for row in rows} == {("score", "acc", "no_answer", "pred")}
    assert {type(value) for row in rows for key, value in row.items() if key != "pred"} == {float}


def test_the_sources_own_form_is_asked_first():
    response = "Answer: 34\nor \\boxed{35}"
    assert compute_score("math_dapo", response, "34")["acc"] == 1.0
    assert compute_score("polaris", response, "35")["acc"] == 1.0


def test_equal_answers_vote_together():
    responses = ("Answer: 0.5", "Answer: $\\frac{1}{2}$", "\\boxed{2/4}")
    assert {compute_score("math_dapo", response, "34")["pred"] for response in responses} == {"1/2"}


@pytest.mark.parametrize("source", ["", "math", "gsm8k", "AIME24", "polaris "])
def test_an_unknown_source_is_refused_with_the_known_ones(source):
    with pytest.raises(ValueError, match=r"known ones are math_dapo, aime\*, polaris"):
        compute_score(source, RIGHT, "34")


@pytest.mark.parametrize("response", [RIGHT, NOTHING])
def test_a_poisoned_ground_truth_is_refused_whatever_the_response(response):
    with pytest.raises(ValueError, match="ground truth is ''"):
        compute_score("math_dapo", response, "")


def test_a_long_answer_cannot_widen_verls_column_of_predictions():
    row = compute_score("math_dapo", "Answer: " + "9" * 4000, "9" * 4000)
    assert row["acc"] == 1.0
    assert len(str(row["pred"])) == MAX_PRED_CHARS


def test_verl_may_pass_its_own_arguments_by_name():
    row = compute_score(
        data_source="polaris",
        solution_str="\\boxed{34}",
        ground_truth="34",
        extra_info={"num_turns": 2, "rollout_reward_scores": {}},
        reward_router_address="127.0.0.1:8000",
        reward_model_tokenizer=None,
    )
    assert row["score"] == 1.0
    # verl awaits coroutine functions and gives other ones a thread.
    assert not inspect.iscoroutinefunction(compute_score)
