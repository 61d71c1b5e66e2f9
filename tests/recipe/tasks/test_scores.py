from contextlib import closing
from itertools import combinations
from statistics import fmean

import pytest

from recipe.tasks.scores import CORRECT, Graded, answer_classes, graded, ks, scores
from reward.grader import Grader, Verdict
from reward.sources import RewardSettings


@pytest.fixture(scope="module")
def grader():
    with closing(Grader(RewardSettings(workers=1))) as made:
        yield made


def samples(*answers, correct=()):
    return [Graded(answer in correct, answer) for answer in answers]


def test_answers_vote_by_what_they_mean_and_not_by_how_they_are_written(grader):
    one = samples("1/2", "0.5", r"\frac{2}{4}", "3", "3.0", "", "x+x", "2x", correct=("3", "3.0"))
    [found] = answer_classes([one], grader)
    assert found[3] == found[4] == CORRECT
    assert found[0] == found[1] == found[2] not in (None, CORRECT)
    assert found[5] is None
    assert found[6] == found[7] not in (None, CORRECT, found[0])


def test_answers_that_cannot_be_read_are_classes_of_their_own(grader):
    [found] = answer_classes([samples(r"\frac{", r"\sqrt{", r"\frac{", "}{")], grader)
    assert found[0] == found[2]
    assert len({found[0], found[1], found[3]}) == 3


def majority(votes, correct):
    """The right answer's part of the most frequent ones, by counting."""
    counts = {vote: votes.count(vote) for vote in votes if vote}
    best = [vote for vote, count in counts.items() if count == max(counts.values())]
    return (correct in best) / len(best) if best else 0.0


def test_scores_are_those_of_counting_over_all_subsets(grader):
    """Answers that differ as text and as numbers, so that counting them is an oracle."""
    table = [["34", "34", "7", "8"], ["1", "2", "2", ""], ["", "", "", ""], ["5", "5", "5", "5"]]
    truth = ["34", "1", "9", "5"]
    found = scores(
        [samples(*row, correct=(correct,)) for row, correct in zip(table, truth, strict=True)],
        grader,
    )
    rows = list(zip(table, truth, strict=True))
    correct = [fmean(answer == t for answer in row) for row, t in rows]
    assert found["mean@4"] == pytest.approx(fmean(correct))
    for k in (2, 4):
        passed = [fmean(t in part for part in combinations(row, k)) for row, t in rows]
        voted = [fmean(majority(part, t) for part in combinations(row, k)) for row, t in rows]
        assert found[f"pass@{k}"] == pytest.approx(fmean(passed))
        assert found[f"maj@{k}"] == pytest.approx(fmean(voted))


def test_code_has_no_majority(grader):
    verdict = Verdict("correct", 1.0, "print(1)", 0.0)
    found = scores([[graded(verdict, is_code=True)] * 2] * 3, grader)
    assert set(found) == {"mean@2", "standard_error", "pass@2"}
    assert graded(verdict, is_code=False).answer == "print(1)"


def test_unequal_numbers_of_samples_and_none_at_all_are_refused(grader):
    for problems in ([samples("1"), samples("1", "2")], [[], []], []):
        with pytest.raises(ValueError, match="equally many samples"):
            scores(problems, grader)


@pytest.mark.parametrize(("n", "expected"), [(1, []), (2, [2]), (10, [2, 4, 8, 10]), (4, [2, 4])])
def test_k_is_every_power_of_two_and_the_whole(n, expected):
    assert ks(n) == expected
