import numpy as np
import pytest
from evaluations import cells, draw, estimates, notes, rows_of, table_of, write

from eval.stats import holm, mean_interval, paired_interval
from eval.tables.estimates import ONE_SEED, UNVARIED, crossed_drops
from eval.tables.printed import latex, markdown


def average(folder, tasks=()):
    return table_of(rows_of(folder, tasks), "average")


def test_a_cell_holds_the_mean_over_tasks_seeds_and_problems(tmp_path):
    # Means by hand: tasks (4 + 0 + 3 + 1 + 4 + 4 + 4 + 4) / 32 = 0.75 and (2 + 0 + 0 + 2) / 16.
    for seed, correct, short in ((0, [4, 0, 3, 1], [2, 0]), (1, [4, 4, 4, 4], [0, 2])):
        write(tmp_path, correct=correct, seed=seed)
        write(tmp_path, correct=short, seed=seed, task="aime24")
    made = average(tmp_path)
    assert cells(made)["balanced"].startswith("50.0 [")
    assert cells(made)["balanced"].endswith("] (2)")
    found = mean_interval(
        [np.array([[2, 0], [0, 2]]) / 4, np.array([[4, 0, 3, 1], [4, 4, 4, 4]]) / 4]
    )
    assert estimates(made, "mean@k, %")["balanced"] == pytest.approx([100 * x for x in found[:3]])
    assert "Average of aime24, math500 at the last step" in made.caption
    assert cells(average(tmp_path, ["math500"]))["balanced"].startswith("75.0 [")


def test_rows_are_experiments_with_their_overrides_and_columns_are_rules_in_order(tmp_path):
    for rule in ("balanced", "my_rule", "token"):
        write(tmp_path, rule=rule, experiment="cpu_demo")
    write(tmp_path / "other", experiment="cpu_demo", run__overrides=["lr=1"], model__sha256="x")
    made = average(tmp_path)
    assert [cell.text for cell in made.head] == [
        "experiment",
        "step",
        "token",
        "balanced",
        "my_rule",
    ]
    assert [line[0].text for line in made.rows] == ["cpu_demo", "cpu_demo lr=1"]
    assert cells(made, 1)["token"] == "-"
    assert notes(made, "token", 1) == "no results of cpu_demo lr=1, token"


def test_differences_are_those_of_the_statistics_and_holms_p_counts_all_of_them(tmp_path):
    scores = {}
    for rule, gain in (("sequence", 0.02), ("token", 0.0), ("balanced", 0.1)):
        for seed in range(3):
            correct = draw(0.5 + gain, 40, len(rule), seed)
            scores.setdefault(rule, []).append(np.array(correct) / 4)
            write(tmp_path, correct=correct, rule=rule, seed=seed)
    made = table_of(rows_of(tmp_path), "difference")
    found = [
        paired_interval(np.array(scores[rule]), np.array(scores["token"]))
        for rule in ("sequence", "balanced")
    ]
    adjusted = holm([interval.p_value for interval in found])
    for number, interval in enumerate(found):
        name = ("sequence - token", "balanced - token")[number]
        measured = estimates(made, "difference, points")[name]
        assert measured == pytest.approx([100 * x for x in interval[:3]])
        line = cells(made, number)
        assert line["points"] == "{:+.1f} [{:+.1f}, {:+.1f}]".format(*measured)
        assert line["P(better)"] == f"{interval.probability_positive:.3f}"
        assert estimates(made, "P(better)")[name][0] == interval.probability_positive
        assert estimates(made, "p")[name][0] == interval.p_value
        assert estimates(made, "p (Holm)")[name][0] == adjusted[number]
    assert any("There are 2 comparisons with token" in remark for remark in made.remarks)


def test_rules_with_other_seeds_are_compared_over_the_common_ones(tmp_path):
    for rule, seeds in (("token", (0, 1, 2)), ("balanced", (1, 2, 3))):
        for seed in seeds:
            write(tmp_path, correct=draw(0.5, 20, len(rule), seed), rule=rule, seed=seed)
    made = table_of(rows_of(tmp_path), "difference")
    first, second = (
        np.array([draw(0.5, 20, len(rule), seed) for seed in (1, 2)]) / 4
        for rule in ("balanced", "token")
    )
    expected = paired_interval(first, second)
    assert estimates(made, "difference, points")["balanced - token"] == pytest.approx(
        [100 * x for x in expected[:3]]
    )
    assert cells(made)["seeds"] == "2"
    assert "over the common seeds 1 2 (balanced has seeds 1 2 3, token has" in notes(made, "points")
    assert "different seeds: 0 1 2 of token; 1 2 3 of" in notes(average(tmp_path), "experiment")


def test_rules_without_a_common_seed_are_independent(tmp_path):
    scores = {}
    for rule, seeds in (("token", (0, 1, 2)), ("balanced", (7, 8))):
        for seed in seeds:
            correct = draw(0.5, 20, len(rule), seed)
            scores.setdefault(rule, []).append(np.array(correct) / 4)
            write(tmp_path, correct=correct, rule=rule, seed=seed)
    made = table_of(rows_of(tmp_path), "difference")
    expected = paired_interval(
        np.array(scores["balanced"]), np.array(scores["token"]), "independent"
    )
    assert estimates(made, "difference, points")["balanced - token"] == pytest.approx(
        [100 * x for x in expected[:3]]
    )
    assert "no seed in common" in notes(made, "points")


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ({"seed": 1, "task": "aime24"}, "balanced, seed 1, step 400: aime24"),
        ({"seed": 1}, "balanced, seed 1, step 400: aime24 math500"),
    ],
)
def test_a_cell_that_lacks_results_is_no_number_and_says_which(lacks, said, tmp_path):
    for rule in ("token", "balanced"):
        for place in [
            (s, step, t) for s in (0, 1, 2) for step in (200, 400) for t in ("math500", "aime24")
        ]:
            seed, step, task = place
            found = {"seed": seed, "task": task} | lacks == {"seed": seed, "task": task}
            if not (rule == "balanced" and step == 400 and found):
                write(tmp_path, rule=rule, seed=seed, step=step, task=task)
    rows = rows_of(tmp_path)
    said = f"missing: qwen3_1_7b_polaris, {said}"
    for made, column, line in (
        (table_of(rows, "average"), "balanced", 0),
        (table_of(rows, "difference"), "points", 0),
        (table_of(rows, "stability"), "crossed [95 % interval]", 1),
        (table_of(rows, "tasks"), "average", 1),
    ):
        assert cells(made, line)[column] == "-"
        assert notes(made, column, line) == said
        assert "A dash means that results are missing" in made.remarks[-1]
    made = table_of(rows, "average")
    assert estimates(made, "mean@k, %")["balanced"] == (None, None, None)
    assert said in set(made.measurements.note)
    assert cells(table_of(rows, "task aime24"), 1)["pass@k"] == "-"
    # The rule that has all keeps its numbers.
    assert cells(table_of(rows, "average"))["token"].endswith("(3)")


def test_a_rule_that_was_evaluated_at_earlier_steps_alone_is_not_set_beside_later_ones(tmp_path):
    write(tmp_path, rule="token", step=400)
    for seed in (0, 1):
        write(tmp_path, rule="balanced", seed=seed, step=200)
    made = average(tmp_path)
    assert cells(made)["balanced"] == "-"
    assert notes(made, "balanced").endswith("balanced, seeds 0 1, step 400: math500")


def test_one_seed_is_marked(tmp_path):
    write(tmp_path, correct=[4, 0, 3, 1])
    made = average(tmp_path)
    assert notes(made, "balanced") == ONE_SEED
    found = mean_interval([[1, 0, 0.75, 0.25]])
    assert estimates(made, "mean@k, %")["balanced"] == pytest.approx([100 * x for x in found[:3]])


def test_results_of_different_or_uncommitted_code_are_marked(tmp_path):
    write(tmp_path, rule="token", commit="aaa")
    write(tmp_path, rule="token", commit="aaa", seed=1)
    write(tmp_path, rule="balanced", commit="bbb-dirty", run__commit="ccc")
    write(tmp_path, rule="balanced", commit="bbb-dirty", seed=1)
    made = average(tmp_path)
    assert "commit" not in notes(made, "token")
    assert notes(made, "balanced") == (
        "graded by code that no commit holds: bbb-dirty | "
        "trained by different commits: 0123456789ab, ccc"
    )
    assert "graded by different commits: aaa, bbb-dirty" in notes(made, "experiment")
    pair = table_of(rows_of(tmp_path), "difference")
    assert "graded by different commits: aaa, bbb-dirty" in notes(pair, "points")
    assert "graded by different commits" in made.measurements.note.iloc[0]


def test_best_and_last_step_are_of_each_seed(tmp_path):
    by_seed = {
        0: {10: [4, 4, 0, 0], 20: [4, 4, 4, 0], 30: [4, 4, 2, 0]},
        1: {10: [4, 4, 4, 4], 20: [0, 0, 0, 0], 30: [4, 4, 0, 0]},
    }
    for seed, by_step in by_seed.items():
        for step, correct in by_step.items():
            write(tmp_path, correct=correct, seed=seed, step=step)
    made = table_of(rows_of(tmp_path), "stability")
    line = cells(made)
    assert (line["steps"], line["best step, by seed"]) == ("3", "20 10")
    # Best (0.75 + 1) / 2, last (0.625 + 0.5) / 2.
    assert (line["best"], line["last"], line["best - last"]) == ("87.5", "56.2", "31.2")
    assert estimates(made, "best - last, points")["balanced"][0] == pytest.approx(31.25)
    assert estimates(made, "best step of seed 1")["balanced"][0] == 10
    assert any("too high" in remark for remark in made.remarks)


def test_the_crossed_drop_judges_a_step_by_other_problems_than_it_was_chosen_by():
    # Without problem 0 or 3 the second step is best, without 1 or 2 the first.
    steps = [
        [np.array([[0.9, 0, 0, 0]])],
        [np.array([[0, 0.5, 0.5, 0.1]])],
        [np.array([[0.25, 0.25, 0.25, 0.25]])],
    ]
    (drop_SP,) = crossed_drops(steps)
    np.testing.assert_allclose(drop_SP, [[0 - 0.25, 0 - 0.25, 0 - 0.25, 0.1 - 0.25]])


def test_a_step_is_chosen_by_the_average_of_tasks_of_each_seed():
    better, worse = np.full((2, 30), 0.5), np.full((2, 12), 0.5)
    better[0] += 0.2
    worse[1] += 0.1
    steps = [
        [better, np.full((2, 12), 0.5)],
        [np.full((2, 30), 0.5), worse],
        [np.zeros((2, 30)), np.zeros((2, 12))],
    ]
    first, second = crossed_drops(steps)
    np.testing.assert_allclose(first, np.repeat([[0.7], [0.5]], 30, axis=1))
    np.testing.assert_allclose(second, np.repeat([[0.5], [0.6]], 12, axis=1))


def test_noise_alone_makes_no_crossed_drop():
    generator = np.random.default_rng(0)
    naive, crossed = [], []
    for _ in range(200):
        steps = [[generator.binomial(4, 0.5, (3, 30)) / 4] for _ in range(6)]
        means = np.array([task.mean(1) for (task,) in steps])
        naive.append((means.max(0) - means[-1]).mean())
        crossed.append(crossed_drops(steps)[0].mean())
    error = np.std(crossed) / np.sqrt(len(crossed))
    assert np.mean(naive) > 0.03
    assert abs(np.mean(crossed)) < 4 * error


def test_a_last_step_that_is_always_best_has_no_interval_of_width_0(tmp_path):
    for step, correct in ((1, [0, 0, 0, 0]), (2, [4, 4, 4, 0])):
        write(tmp_path, correct=correct, step=step)
    made = table_of(rows_of(tmp_path), "stability")
    assert cells(made)["crossed [95 % interval]"] == "+0.0"
    assert "no step but the last was chosen" in notes(made, "crossed [95 % interval]")


def test_runs_of_one_step_have_no_drop(tmp_path):
    write(tmp_path)
    made = table_of(rows_of(tmp_path), "stability")
    assert made.rows == ()
    assert made.remarks == ("Evaluated at one step only, so without a drop: qwen3_1_7b_polaris.",)
    assert "|" not in markdown(made)
    assert all(line.startswith("%") for line in latex(made).splitlines())


def test_values_that_are_all_alike_have_no_interval_and_no_probability(tmp_path):
    for rule, correct in (("token", [0, 0, 0]), ("balanced", [2, 2, 2])):
        for seed in (0, 1):
            write(tmp_path, correct=correct, rule=rule, seed=seed, experiment="cpu_demo")
    made = average(tmp_path)
    assert cells(made)["token"] == "0.0 (2)"
    assert notes(made, "token") == UNVARIED
    assert estimates(made, "mean@k, %") == {"token": (0, None, None), "balanced": (50, None, None)}
    made = table_of(rows_of(tmp_path), "difference")
    line = cells(made)
    assert [line[key] for key in ("points", "P(better)", "p", "p (Holm)")] == ["+50.0", *"---"]
    assert estimates(made, "p (Holm)")["balanced - token"][0] is None
    assert not any("comparison" in remark for remark in made.remarks)
