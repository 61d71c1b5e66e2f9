import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.reward_throughput import HANGS
from reward.grader import ROWS_AHEAD, Grader, Row, parse_tests, read_truth
from reward.sources import ANY, CODE, RewardSettings, Source
from tests.reward.cases import CASES

SETTINGS = RewardSettings(workers=2, deadline=2.0)
TESTS = json.dumps({"inputs": ["2 3"], "outputs": ["5"]})
PROGRAM = "```python\nprint(sum(map(int, input().split())))\n```"


@pytest.fixture(scope="module")
def grader():
    grader = Grader(SETTINGS)
    yield grader
    grader.close()


def row(case):
    name = case.get("data_source")
    source = ANY if name is None else SETTINGS.find(name)
    return Row(case["response"], case["ground_truth"], source)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['category']}: {c['response'][-60:]}")
def test_a_case_gets_its_expected_outcome(grader, case):
    verdict = grader.grade(row(case))
    not_read = {"parse_error": "incorrect", "timeout": "incorrect"}
    assert not_read.get(verdict.outcome, verdict.outcome) == case["expected"], verdict


def test_the_cases_cover_every_outcome_and_many_categories():
    assert len({(c["response"], c["ground_truth"], c.get("data_source")) for c in CASES}) >= 600
    assert len({case["category"] for case in CASES}) >= 40
    assert all(case["source"] == "ours" or "://" in case["source"] for case in CASES)
    counts = Counter(case["expected"] for case in CASES)
    assert min(counts["correct"], counts["incorrect"]) > 200
    assert counts["no_answer"] > 50


def test_grading_many_rows_gives_the_same_verdicts_in_the_same_order_as_one_by_one(grader):
    rows = [row(case) for case in CASES]
    many, single = list(grader.grade_many(rows)), list(map(grader.grade, rows))
    assert [verdict[:3] for verdict in many] == [verdict[:3] for verdict in single]


def test_rows_that_hang_do_not_delay_other_rows(grader, monkeypatch):
    """Every tenth row hangs and is a timeout. The other rows are decided meanwhile."""
    rows = [
        Row(
            f"\\boxed{{{HANGS if i % 10 == 0 else f'{i}+' + chr(92) + 'ln x'}}}",
            f"\\ln x+{i}" if i % 2 else "7",
            ANY,
        )
        for i in range(40)
    ]
    finished = []
    ask = grader.pool.ask

    def recorded(answer, truth):
        reply = ask(answer, truth)
        finished.append(answer)
        return reply

    monkeypatch.setattr(grader.pool, "ask", recorded)
    verdicts = list(grader.grade_many(rows))
    outcomes = [verdict.outcome for verdict in verdicts]
    assert [i for i, outcome in enumerate(outcomes) if outcome == "timeout"] == [0, 10, 20, 30]
    assert outcomes[1:4] == ["correct", "incorrect", "correct"]
    assert "not decided after 2 s" in verdicts[0].error
    assert finished.index(HANGS) >= 9


def test_a_grader_does_not_read_far_ahead_of_an_undecided_row():
    taken = 0

    def rows():
        nonlocal taken
        yield Row(f"\\boxed{{{HANGS}}}", "7", ANY)
        for _ in range(3 * ROWS_AHEAD):
            taken += 1
            yield Row("\\boxed{7}", "7", ANY)

    grader = Grader(SETTINGS)
    verdicts = grader.grade_many(rows())
    assert next(verdicts).outcome == "timeout"
    assert taken <= ROWS_AHEAD + 1
    assert sum(verdict.outcome == "correct" for verdict in verdicts) == 3 * ROWS_AHEAD
    grader.close()


def test_threads_can_share_a_grader(grader):
    cases = [case for case in CASES if case["category"] in ("expression", "trig_log", "interval")]
    with ThreadPoolExecutor(8) as executor:
        verdicts = list(executor.map(lambda case: grader.grade(row(case)), cases * 3))
    single = [grader.grade(row(case)) for case in cases * 3]
    assert [verdict[:3] for verdict in verdicts] == [verdict[:3] for verdict in single]
    assert threading.active_count() < 20


@pytest.mark.parametrize(
    ("thinking", "outcome"), [("after", "correct"), ("require", "no_answer"), ("ignore", "correct")]
)
def test_a_response_without_thinking_is_read_unless_thinking_is_required(thinking, outcome):
    grader = Grader(RewardSettings(thinking=thinking))
    assert grader.grade(Row("\\boxed{34}", "34", ANY)).outcome == outcome


def test_code_is_graded_on_its_tests(grader):
    assert grader.grade(Row(PROGRAM, TESTS, CODE)).outcome == "correct"
    incorrect = grader.grade(Row(PROGRAM.replace("sum", "max"), TESTS, CODE))
    assert (incorrect.outcome, incorrect.score) == ("incorrect", 0.0)
    assert incorrect.error
    assert grader.grade(Row("It is 5.", TESTS, CODE)).outcome == "no_answer"


def test_a_scorer_of_your_own_is_called_with_the_row(grader):
    def half(response, ground_truth, extra):
        return {"score": 0.5, "style": len(response) + extra["k"]}

    verdict = grader.grade(Row("abc", "x", half, {"k": 1}))
    assert (verdict.outcome, verdict.score, verdict.extra) == ("correct", 0.5, {"style": 4})
    assert grader.grade(Row("abc", "x", lambda *_: -1)).outcome == "incorrect"


@pytest.mark.parametrize("truth", ["", " ", "$$", ".", "\\text{}", "\u200b", None, 34])
def test_a_ground_truth_that_states_nothing_is_refused(truth):
    with pytest.raises(ValueError, match=r"ground truth is .* Repair or drop this row"):
        read_truth(truth)


@pytest.mark.parametrize("truth", ["", "34", "[1]", None, "{"])
def test_a_ground_truth_without_valid_tests_is_refused(truth):
    with pytest.raises(ValueError, match=r"tests` is|tests are"):
        parse_tests(truth)


def test_a_source_scores_on_its_published_scale(grader):
    dapo = Source(("answer_line",), not_correct=-1.0)
    scores = [grader.grade(Row(text, "34", dapo)).score for text in ("Answer: 34", "Answer: 3", "")]
    assert scores == [1.0, -1.0, -1.0]
