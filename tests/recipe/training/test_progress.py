"""What a judge is asked of a batch, and where its verdicts go."""

import math

import driver
import pytest

from recipe.config.compose import resolve
from recipe.training import trainer
from reward.steps import Attempt


@pytest.fixture
def sgpo(composed):
    config = composed("advantage=sgpo", "step_judge.kind=arithmetic", "aggregation=token")
    resolve(config)
    return config


def test_groups_without_a_correct_response_are_graded(sgpo, monkeypatch):
    """Only group e has none: one of its responses is wrong at once, the other after a step."""
    put, metrics = driver.add_columns(monkeypatch, sgpo, driver.WIDE)
    advantages = [row[0].item() for row in put["advantages"].unbind()]
    assert advantages[10:] == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-3)
    assert advantages[:4] == pytest.approx(driver.WIDE.advantages[:4])
    assert metrics["judge/responses"] == 2 and metrics["judge/failures"] == 0
    assert metrics["advantage/graded"] == pytest.approx(2 / 11)


def test_a_judge_reads_problem_response_and_answer_of_those_alone(sgpo, monkeypatch):
    asked = []

    def judge(attempts):
        asked.extend(attempts)
        return [None, 0.5]

    monkeypatch.setattr(trainer.steps, "begin", lambda _: judge)
    put, metrics = driver.add_columns(monkeypatch, sgpo, driver.WIDE)
    texts = [driver.decode(range(length), True) for length in driver.WIDE.lengths[10:]]
    assert asked == [Attempt(driver.PROBLEM, text, "9") for text in texts]
    # Of one response there is no verdict, so its group is left alone.
    assert not any(row.any() for row in put["advantages"].unbind()[10:])
    assert metrics["judge/failures"] == 0.5


def test_an_empty_response_is_not_asked_about_and_has_nothing_right(sgpo, monkeypatch):
    """Of group e the first response is empty, and the first step of the other is right."""
    whole = driver.decode

    def decode(tokens, skip_special_tokens):
        return " " if len(tokens) == 4 else whole(tokens, skip_special_tokens)

    monkeypatch.setattr(driver, "decode", decode)
    put, metrics = driver.add_columns(monkeypatch, sgpo, driver.WIDE)
    advantages = [row[0].item() for row in put["advantages"].unbind()[10:]]
    assert advantages == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-3)
    assert metrics["judge/responses"] == 1 and metrics["judge/failures"] == 0


def test_nothing_is_asked_where_every_group_has_a_correct_response(sgpo, monkeypatch):
    _, metrics = driver.add_columns(monkeypatch, sgpo, driver.ROWS)
    assert metrics["judge/responses"] == 0
    assert "judge/failures" not in metrics
