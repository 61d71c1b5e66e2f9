"""Counts and errors, against definitions written out and against scipy."""

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.stats import holm
from recipe.tasks.at_k import maj_at_k, mean_at_k, pass_at_k, standard_error


@st.composite
def votes(draw):
    """Classes of up to 7 samples, some silent; the class that is right; how many vote."""
    classes = draw(st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=7))
    return classes, draw(st.sampled_from([None, 0, 1, 9])), draw(st.integers(1, len(classes)))


def share_of_subsets(samples, k, score):
    """The mean score of all choices of k samples."""
    subsets = list(combinations(samples, k))
    return float(sum(map(score, subsets), Fraction(0)) / len(subsets))


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(num_samples):
    for k in range(1, num_samples + 1):
        expected = [
            share_of_subsets(
                [i < correct for i in range(num_samples)], k, lambda s: Fraction(any(s))
            )
            for correct in range(num_samples + 1)
        ]
        found = pass_at_k(range(num_samples + 1), num_samples, k)
        assert found.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("num_samples", "k"), [(32, 8), (256, 1), (256, 64), (1024, 1000)])
def test_pass_at_k_is_the_hypergeometric_chance_of_not_drawing_only_wrong_ones(num_samples, k):
    correct = np.array([0, 1, 2, num_samples // 3, num_samples - 1, num_samples])
    expected = 1 - stats.hypergeom(num_samples, correct, k).pmf(0)
    assert pass_at_k(correct, num_samples, k) == pytest.approx(expected, abs=1e-9)


def test_pass_at_1_is_the_mean_and_pass_at_n_whether_any_is_right():
    score_PK = np.random.default_rng(0).random((20, 6)) < 0.3
    correct_P = score_PK.sum(1)
    assert pass_at_k(correct_P, 6, 1).mean() == pytest.approx(mean_at_k(score_PK))
    assert pass_at_k(correct_P, 6, 6).tolist() == score_PK.any(1).tolist()


def test_pass_at_k_keeps_the_shape_of_its_counts():
    assert pass_at_k([[0, 4], [2, 1]], 4, 2).shape == (2, 2)
    assert pass_at_k([], 4, 2).tolist() == []


@pytest.mark.parametrize("k", [0, -1, 5])
def test_more_samples_than_there_are_or_none_cannot_be_drawn(k):
    with pytest.raises(ValueError, match=f"k is {k}, but there are 4 samples"):
        pass_at_k([1], 4, k)
    with pytest.raises(ValueError, match=f"k is {k}, but there are 4 samples"):
        maj_at_k([0, 0, 1, None], 0, k)


def test_counts_of_right_samples_are_whole_and_at_most_all():
    with pytest.raises(ValueError, match="1 to 5 of 4 samples are correct"):
        pass_at_k([1, 5], 4, 2)
    with pytest.raises(ValueError, match="-1 to 1 of 4 samples are correct"):
        pass_at_k([-1, 1], 4, 2)
    with pytest.raises(ValueError, match="not a share"):
        pass_at_k([0.25, 1.0], 4, 2)


def test_mean_at_k_takes_problems_by_samples():
    assert mean_at_k([[1, 0], [1, 1], [0, 0]]) == 0.5
    for bad in ([1, 0], [], [[], []], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="problems x samples"):
            mean_at_k(bad)


def majority(correct_class):
    """What a vote of some samples scores: 1 over the number of most frequent answers."""

    def score(subset):
        counts = Counter(one for one in subset if one is not None)
        first = [one for one, count in counts.items() if count == max(counts.values())]
        return Fraction(1, len(first)) if correct_class in first else Fraction(0)

    return score


@settings(max_examples=400)
@given(votes())
def test_maj_at_k_is_the_mean_vote_of_all_subsets(vote):
    classes, correct_class, k = vote
    expected = share_of_subsets(classes, k, majority(correct_class))
    assert maj_at_k(classes, correct_class, k) == pytest.approx(expected, rel=1e-12)


@given(votes())
def test_maj_at_1_is_the_share_of_right_samples(vote):
    classes, correct_class, _ = vote
    expected = sum(one is not None and one == correct_class for one in classes) / len(classes)
    assert maj_at_k(classes, correct_class, 1) == pytest.approx(expected)


@given(votes(), st.randoms())
def test_maj_at_k_depends_on_no_order_and_no_names(vote, random):
    classes, correct_class, k = vote
    named = [None if one is None else f"class {one}" for one in classes]
    random.shuffle(named)
    renamed = None if correct_class is None else f"class {correct_class}"
    assert maj_at_k(named, renamed, k) == pytest.approx(maj_at_k(classes, correct_class, k))


def test_nothing_is_right_if_nobody_votes_or_nobody_for_it():
    assert maj_at_k([None, None, None], None, 2) == 0
    assert maj_at_k([None, None, None], 0, 2) == 0
    assert maj_at_k([1, 1, None], 0, 2) == 0


def test_a_single_vote_beats_silence_and_ties_are_split_evenly():
    assert maj_at_k([0, None, None], 0, 3) == 1
    assert maj_at_k([0, 1], 0, 2) == 1 / 2
    assert maj_at_k([0, 1, 2, 3, None], 0, 5) == 1 / 4


def test_many_samples_take_no_enumeration():
    classes = [0] * 24 + [1] * 20 + [2 + i for i in range(15)] + [None] * 5
    assert maj_at_k(classes, 0, 64) == 1
    assert maj_at_k(classes, 1, 64) == 0
    random = np.random.default_rng(0)
    drawn = [majority(0)([classes[i] for i in random.permutation(64)[:16]]) for _ in range(5000)]
    assert maj_at_k(classes, 0, 16) == pytest.approx(float(np.mean([*map(float, drawn)])), abs=0.02)


def test_the_standard_error_without_clusters_is_the_usual_one():
    values = np.random.default_rng(0).random(37)
    assert standard_error(values) == pytest.approx(stats.sem(values))


def test_with_balanced_clusters_it_is_the_error_of_the_cluster_means():
    value_PK = np.random.default_rng(0).normal(size=(12, 1)) + np.eye(12, 5)
    found = standard_error(value_PK.flatten(), np.repeat(np.arange(12), 5))
    assert found == pytest.approx(stats.sem(value_PK.mean(1)))
    assert found > 1.5 * standard_error(value_PK.flatten())


def test_with_unbalanced_clusters_it_sums_products_within_each():
    random = np.random.default_rng(0)
    values, clusters = random.normal(size=40), random.choice(list("abcdefg"), 40)
    total = 0.0
    for value, cluster in zip(values, clusters, strict=True):
        for other, its in zip(values, clusters, strict=True):
            if cluster == its:
                total += (value - values.mean()) * (other - values.mean())
    number = len(set(clusters))
    expected = (total * number / (number - 1)) ** 0.5 / 40
    assert standard_error(values, clusters) == pytest.approx(expected)


def test_a_single_cluster_says_nothing():
    assert np.isnan(standard_error([1.0, 2.0, 4.0], [7, 7, 7]))
    assert np.isnan(standard_error([1.0]))


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(p_values)
def test_holm_is_the_largest_product_of_a_p_value_and_the_number_not_smaller(values):
    found = holm(values)
    for value, adjusted in zip(values, found, strict=True):
        # Of equal values the first in rank has the largest factor.
        products = [p * sum(q >= p for q in values) for p in values if p <= value]
        assert adjusted == pytest.approx(min(1.0, max(products)))


@given(p_values, st.randoms())
def test_holm_keeps_order_and_lowers_nothing(values, random):
    found = holm(values)
    assert all(value <= adjusted <= 1 for value, adjusted in zip(values, found, strict=True))
    by_value = [adjusted for _, adjusted in sorted(zip(values, found, strict=True))]
    assert by_value == sorted(by_value)
    shuffled = random.sample(range(len(values)), len(values))
    assert holm([values[i] for i in shuffled]) == [found[i] for i in shuffled]


def test_a_single_p_value_stays_and_none_is_none():
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
