"""Intervals over few seeds, against scipy, a Monte Carlo of their definition and simulated runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.stats import mean_interval, paired_interval


def scores(num_seeds, num_problems, seed=0, spread=1.0):
    """Seeds x problems with effects of both; `spread` is that of the seeds."""
    random = np.random.default_rng([num_seeds, num_problems, seed])
    effects = spread * random.normal(size=(num_seeds, 1)) + random.normal(size=num_problems)
    return 0.3 + 0.1 * (effects + random.normal(size=(num_seeds, num_problems)))


def ends(interval):
    return np.array([interval.low, interval.high])


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("num_problems", [2, 5, 30, 500])
def test_one_seed_leaves_the_t_interval_over_problems(num_problems, level):
    [value_P] = score = scores(1, num_problems)
    expected = stats.t.interval(level, num_problems - 1, value_P.mean(), stats.sem(value_P))
    found = mean_interval(score, level)
    assert found.num_seeds == 1
    assert found.estimate == pytest.approx(value_P.mean())
    assert ends(found) - found.estimate == pytest.approx(expected - value_P.mean(), rel=0.001)
    for null in (0.0, 0.25, 0.3):
        test = stats.ttest_1samp(value_P, null)
        found = mean_interval(score - null, level)
        assert found.p_value == pytest.approx(test.pvalue, rel=0.01, abs=1e-5)
        greater = stats.t.cdf(test.statistic, num_problems - 1)
        assert found.probability_positive == pytest.approx(greater, abs=1e-4)


@pytest.mark.parametrize("seeds", ["paired", "independent"])
def test_one_seed_of_each_leaves_the_paired_t_test_over_problems(seeds):
    first, second = scores(1, 30, 1), scores(1, 30, 2, spread=0.3)
    expected = stats.ttest_rel(first[0], second[0])
    found = paired_interval(first, second, seeds)
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.01)
    assert ends(found) == pytest.approx(list(expected.confidence_interval()), rel=0.005)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_problems_that_are_all_alike_leave_the_t_interval_over_seeds(num_seeds, level):
    value_S = scores(num_seeds, 2)[:, 0]
    expected = stats.t.interval(level, num_seeds - 1, value_S.mean(), stats.sem(value_S))
    test = stats.ttest_1samp(value_S, 0.2)
    for noise in (0.0, 1e-6):
        score = value_S[:, None] + noise * scores(num_seeds, 2000)
        found = mean_interval(score, level)
        assert ends(found) - found.estimate == pytest.approx(expected - value_S.mean(), rel=0.001)
        assert mean_interval(score - 0.2).p_value == pytest.approx(test.pvalue, rel=0.005)


@pytest.mark.parametrize("distance", [10, 30, 100])
def test_small_p_values_of_three_seeds_are_those_of_the_t_test(distance):
    value_S = np.array([-1.0, 0.0, 1.0]) + distance
    found = mean_interval(np.repeat(value_S[:, None], 30, axis=1))
    assert found.p_value == pytest.approx(stats.ttest_1samp(value_S, 0).pvalue, rel=0.01)


def test_independent_seeds_of_unequal_number_leave_welchs_test_if_problems_are_alike():
    first, second = scores(3, 2, 1)[:, :1], scores(5, 2, 2)[:, :1]
    expected = stats.ttest_ind(first[:, 0], second[:, 0], equal_var=False)
    found = paired_interval(first.repeat(30, 1), second.repeat(30, 1), "independent")
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.01)
    assert ends(found) == pytest.approx(list(expected.confidence_interval()), rel=0.005)
    assert found.num_seeds == 3
    assert paired_interval(second.repeat(30, 1), first.repeat(30, 1), "independent").num_seeds == 3


def test_two_tasks_under_one_seed_leave_welchs_test_of_their_sum():
    first, second = scores(1, 30, 1) - 0.3, scores(1, 12, 2) - 0.3
    expected = stats.ttest_ind(first[0], -second[0], equal_var=False)
    found = mean_interval([first, second])
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.01)
    assert 2 * ends(found) == pytest.approx(list(expected.confidence_interval()), rel=0.005)


LEVELS = (0.8, 0.95, 0.99)


def mixture(seed, problem, rest):
    """Half the width of intervals of 80 %, 95 % and 99 % by their definition, by Monte Carlo.

    Args:
        seed: mean square over the size of the scores, and degrees of freedom, of seeds.
        problem: the same of problems.
        rest: the mean square of the rest over the size.
    """
    random = np.random.default_rng(0)
    drawn = [v * freedom / random.chisquare(freedom, 1_000_000) for v, freedom in (seed, problem)]
    weight = np.sqrt(1 / drawn[0] + 1 / drawn[1])
    variance = np.maximum(drawn[0] + drawn[1] - rest, rest / 2)
    distance = np.abs(random.normal(size=len(weight)) * np.sqrt(variance))
    order = distance.argsort()
    below = weight[order].cumsum() / weight.sum()
    return [distance[order][np.searchsorted(below, level)] for level in LEVELS]


def check_mixture(compare, seed, problem, rest):
    """`compare` gives an interval for a level; the tolerances are errors of the Monte Carlo."""
    expected = mixture(seed, problem, rest)
    for level, half, error in zip(LEVELS, expected, (0.01, 0.015, 0.03), strict=True):
        found = compare(level)
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=error)


def mean_squares(score):
    """Of the textbook table of two crossed factors: seeds, problems, rest."""
    num_seeds, num_problems = score.shape
    total = ((score - score.mean()) ** 2).sum()
    seed = num_problems * ((score.mean(1) - score.mean()) ** 2).sum()
    problem = num_seeds * ((score.mean(0) - score.mean()) ** 2).sum()
    freedom = (num_seeds - 1) * (num_problems - 1)
    return seed / (num_seeds - 1), problem / (num_problems - 1), (total - seed - problem) / freedom


@pytest.mark.parametrize("spread", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("num_seeds", "num_problems"), [(2, 30), (3, 8), (3, 30), (5, 500)])
def test_the_interval_is_the_mixture_that_its_docstring_defines(num_seeds, num_problems, spread):
    first, second = (scores(num_seeds, num_problems, i, spread) for i in (1, 2))
    parts = [part / first.size for part in mean_squares(first - second)]
    check_mixture(
        lambda level: paired_interval(first, second, level=level),
        (parts[0], num_seeds - 1),
        (parts[1], num_problems - 1),
        parts[2],
    )


def test_a_variance_is_at_least_half_of_what_the_rest_alone_makes_it():
    score = scores(3, 8, spread=0.0)
    # Both effects are shrunk below what the rest would give by chance.
    score = score - 0.9 * (score.mean(0) + score.mean(1)[:, None])
    parts = [part / score.size for part in mean_squares(score)]
    assert parts[0] + parts[1] < 0.1 * parts[2]
    check_mixture(lambda level: mean_interval(score, level), (parts[0], 2), (parts[1], 7), parts[2])


def added(parts):
    """The sum of variances and its degrees of freedom (Satterthwaite 1946)."""
    total = sum(value for value, _ in parts)
    return total, total**2 / sum(value**2 / freedom for value, freedom in parts)


def test_of_several_tasks_a_seed_has_one_mean_and_the_other_variances_add_up():
    tasks = [0.5 * scores(3, size, size) for size in (30, 8, 12)]
    mean_S = sum(task.mean(1) for task in tasks) / 3
    parts = [[part / task.size / 9 for part in mean_squares(task)] for task in tasks]
    problem = added([(part[1], task.shape[1] - 1) for part, task in zip(parts, tasks, strict=True)])
    check_mixture(
        lambda level: mean_interval(tasks, level),
        (stats.sem(mean_S) ** 2, 2),
        problem,
        sum(part[2] for part in parts),
    )


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_of_independent_seeds_the_variances_of_both_rules_add_up(spread):
    both = scores(3, 30, 1, spread), scores(4, 30, 2, spread)
    parts = [[part / score.size for part in mean_squares(score)] for score in both]
    seed = added([(part[0], len(score) - 1) for part, score in zip(parts, both, strict=True)])
    problem = stats.sem(both[0].mean(0) - both[1].mean(0)) ** 2, 29
    check_mixture(
        lambda level: paired_interval(*both, "independent", level),
        seed,
        problem,
        parts[0][2] + parts[1][2],
    )


def test_the_estimate_is_the_mean_of_differences_and_of_tasks():
    first = [scores(3, 30, 1), scores(3, 8, 2)]
    second = [scores(3, 30, 3), scores(3, 8, 4)]
    means = [one.mean() - other.mean() for one, other in zip(first, second, strict=True)]
    for seeds in ("paired", "independent"):
        assert paired_interval(first, second, seeds).estimate == pytest.approx(np.mean(means))
        one = paired_interval(first[0], second[0], seeds)
        assert paired_interval(first[:1], second[:1], seeds) == one
        assert paired_interval(first[0].tolist(), second[0].tolist(), seeds) == one
    assert mean_interval(first).estimate == pytest.approx(np.mean([x.mean() for x in first]))
    found = mean_interval([first[0] - second[0], first[1] - second[1]])
    assert found == paired_interval(first, second)


@pytest.mark.parametrize("seeds", ["paired", "independent"])
def test_a_task_given_twice_halves_the_problem_part_alone(seeds):
    """The seed part is common to the two copies; only with one seed is the whole width smaller."""
    first, second = scores(1, 30, 1), scores(1, 30, 2)
    once, twice = (paired_interval([first] * n, [second] * n, seeds) for n in (1, 2))
    t = stats.t.ppf(0.975, [29, 58])
    ratio = (twice.high - twice.low) / (once.high - once.low)
    assert ratio == pytest.approx(t[1] / t[0] / 2**0.5, rel=0.001)


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.sampled_from(["paired", "independent"]))
def test_units_and_zero_of_the_scores_carry_over(scale, shift, seeds):
    first, second = scores(3, 12, 1), scores(3, 12, 2)
    base = paired_interval(first, second, seeds)
    moved = paired_interval(scale * first + shift, scale * second, seeds)
    assert [moved.estimate, *ends(moved)] == pytest.approx(
        [scale * x + shift for x in (base.estimate, *ends(base))], rel=1e-6, abs=1e-6
    )
    same = paired_interval(scale * first + shift, scale * second + shift, seeds)
    assert (same.p_value, same.probability_positive) == pytest.approx(
        (base.p_value, base.probability_positive), rel=1e-6
    )


@pytest.mark.parametrize("seeds", ["paired", "independent"])
def test_swapping_the_rules_mirrors_the_interval(seeds):
    first, second = scores(3, 30, 1), scores(3, 30, 2)
    one, other = paired_interval(first, second, seeds), paired_interval(second, first, seeds)
    assert ends(other)[::-1] == pytest.approx(-ends(one))
    assert other.probability_positive == pytest.approx(1 - one.probability_positive)
    assert other.p_value == pytest.approx(one.p_value)
    assert one.p_value == pytest.approx(2 * min(one.probability_positive, other[3]))


@settings(max_examples=60)
@given(st.floats(-0.6, 0.6), st.integers(1, 4), st.integers(0, 5))
def test_p_is_below_5_percent_where_the_95_percent_interval_excludes_0(shift, num_seeds, seed):
    found = mean_interval(scores(num_seeds, 10, seed) + shift)
    if abs(found.p_value - 0.05) > 1e-6:
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


@settings(max_examples=20)
@given(st.randoms())
def test_neither_the_order_of_seeds_nor_of_problems_matters(random):
    first, second = scores(3, 12, 1), scores(3, 12, 2)
    rows, columns = random.sample(range(3), 3), random.sample(range(12), 12)
    base = paired_interval(first, second)
    found = paired_interval(first[rows][:, columns], second[rows][:, columns])
    assert found == pytest.approx(base)
    base = paired_interval(first, second[:2], "independent")
    found = paired_interval(first[rows][:, columns], second[:2][::-1, columns], "independent")
    assert found == pytest.approx(base)


def test_pairing_narrows_the_interval_where_seeds_move_both_rules_alike():
    first = scores(4, 30, 1)
    second = first + scores(4, 30, 2, spread=0.1)
    paired, independent = (paired_interval(first, second, x) for x in ("paired", "independent"))
    assert paired.estimate == pytest.approx(independent.estimate)
    assert paired.high - paired.low < 0.8 * (independent.high - independent.low)


def test_differences_without_any_noise_have_no_width():
    score = scores(3, 30)
    found = paired_interval(score, score)
    assert found == (0.0, 0.0, 0.0, 0.5, 1.0, 3)
    for shift, probability in ((0.5, 1.0), (-0.5, 0.0)):
        found = paired_interval(np.full((3, 30), 0.5 + shift), np.full((3, 30), 0.5))
        assert found == (shift, shift, shift, probability, 0.0, 3)
    found = paired_interval(score + 0.1, score)
    assert ends(found) == pytest.approx([0.1, 0.1])
    assert (found.probability_positive, found.p_value) == (1.0, 0.0)


NAN = np.where(np.arange(30) == 3, np.nan, scores(3, 30))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (scores(3, 30), scores(3, 29), r"the problems differ: \[30\] of the first, \[29\] of the"),
        (scores(3, 30), [scores(3, 30)] * 2, "the problems differ"),
        (scores(3, 30), scores(2, 30), "3 seeds of the first cannot be paired with 2; give seeds="),
        (scores(3, 30), NAN, "a score is not a number; every problem needs one"),
        (scores(3, 30)[0], scores(3, 30)[0], "must be seeds x problems"),
        (scores(3, 2)[:, :1], scores(3, 2)[:, :1], "two problems at least"),
        (np.zeros((0, 30)), np.zeros((0, 30)), "must be seeds x problems"),
        ([], [], "must be seeds x problems"),
        ([scores(3, 30), scores(2, 30)], scores(3, 30), r"different numbers of seeds: \[3, 2\]"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(first, second)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5])
def test_a_level_is_between_0_and_1(level):
    with pytest.raises(ValueError, match=f"the level of an interval is {level}"):
        mean_interval(scores(3, 30), level)


def simulated(num_seeds, num_problems, num_samples, seed_effect, random):
    """Scores of two rules whose true difference is 0.05, each with its own seeds.

    Effects are uniform and small enough that no probability needs a bound, so it is exact.
    """
    problem_P = 0.1 + 0.7 * random.beta(0.4, 0.4, num_problems)
    scores = []
    for shift in (0.05, 0.0):
        own_P = random.uniform(-0.05, 0.05, num_problems)
        seed_S1 = random.uniform(-seed_effect, seed_effect, (num_seeds, 1))
        chance_SP = problem_P + shift + own_P + seed_S1
        scores.append(random.binomial(num_samples, chance_SP) / num_samples)
    return scores


@pytest.mark.parametrize("seed_effect", [0.0, 0.015, 0.05])
@pytest.mark.parametrize(("size", "replications"), [((3, 30, 32), 2500), ((5, 500, 4), 1000)])
def test_95_percent_of_intervals_hold_the_truth_and_bootstraps_of_seeds_do_not(
    size, replications, seed_effect
):
    random = np.random.default_rng(0)
    held = []
    for _ in range(replications):
        first, second = simulated(*size, seed_effect, random)
        found = paired_interval(first, second)
        mean_S = (first - second).mean(1)
        drawn_B = mean_S[random.integers(0, size[0], (500, size[0]))].mean(1)
        low, high = np.quantile(drawn_B, [0.025, 0.975])
        held.append([found.low <= 0.05 <= found.high, low <= 0.05 <= high])
    ours, bootstrap = np.mean(held, axis=0)
    assert 0.93 <= ours <= 0.97
    # Three seeds leave 27 samples of a bootstrap, all of them between the lowest and the highest.
    assert bootstrap < (0.8 if size[0] == 3 else 0.88)
