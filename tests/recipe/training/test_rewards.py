import math

import pytest
import torch

from recipe.training.rewards import REPORTED, correct, refuse_broken, reward_metrics
from reward.errors import RewardError
from reward.score import compute_score


def test_a_score_that_is_no_number_stops_the_run_with_what_the_grader_said():
    rows = [compute_score("math_dapo", "Answer: 3", truth) for truth in ("3", "", "4")]
    scores = torch.tensor([row["score"] for row in rows])
    with pytest.raises(RewardError, match=r"1 of 3 responses have no reward.*ground truth is ''"):
        refuse_broken(scores, rows)
    refuse_broken(scores[[0, 2]], [rows[0], rows[2]])


def test_the_graders_columns_become_means_over_the_rows_that_count():
    texts = ["Answer: 3", "Answer: 4", "none", "Answer: \\foo{", "Answer: 3"]
    rows = [compute_score("math_dapo", text, "3") for text in texts]
    found = reward_metrics(torch.tensor([True, True, True, True, False]), rows)
    seconds = found.pop("reward/seconds")
    assert found == {
        "reward/incorrect": 0.25,
        "reward/no_answer": 0.25,
        "reward/parse_error": 0.25,
        "reward/timeout": 0.0,
    }
    assert seconds == pytest.approx(sum(row["seconds"] for row in rows[:4]) / 4)
    assert len(found) + 1 == len(REPORTED)


def test_another_reward_function_has_no_such_means():
    assert reward_metrics(torch.tensor([True]), [{"acc": 1.0}]) == {}
    assert reward_metrics(torch.tensor([False]), [compute_score("polaris", "", "3")]) == {}


def test_right_is_the_verdict_and_not_the_score_where_length_is_punished():
    scores = torch.tensor([0.2, -0.5, 1.0, -1.0])
    infos = [{"acc": 1.0}, {"acc": 1.0}, {}, {}]
    assert correct(scores, infos).tolist() == [True, True, True, False]
    with pytest.raises(RewardError, match="1 of 1"):
        refuse_broken(torch.tensor([math.inf]), [{}])
