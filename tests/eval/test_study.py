import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from eval import study, study_arms, study_results
from eval.stats import holm, paired_interval
from recipe.base.errors import UserError

SEEDS, STEPS, PROBLEMS = 4, 10, 30


def made(arm, seed, better=0.0, *, cell="one", is_selection=False):
    generator = np.random.default_rng([seed, 7])
    correct = np.linspace(0.3, 0.6, STEPS) + better + 0.02 * generator.normal(size=STEPS)
    looks = [
        "".join(map(str, (generator.random(PROBLEMS) < 0.5 + better).astype(int))) for _ in range(2)
    ]
    return {
        "cell": cell,
        "arm": arm,
        "learning_rate": 1e-4,
        "seed": seed,
        "is_selection": is_selection,
        "correct": correct.tolist(),
        "length": [40.0] * STEPS,
        "length_gap": [0.5, None] * (STEPS // 2),
        "entropy": [0.3] * STEPS,
        "held_out": looks,
        "held_out_samples": 1,
    }


@pytest.fixture
def folder(tmp_path):
    rows = [
        made(arm, seed, better, cell=cell)
        for cell in ("one", "two")
        for arm, better in (("token", 0.0), ("balanced", 0.05), ("sequence", -0.02))
        for seed in range(SEEDS)
    ]
    # A seed that chose the rate, at which balanced is bad.
    rows.append(made("balanced", 100, -0.3, is_selection=True))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path, rows


def test_differences_are_of_the_same_seeds_with_their_intervals(folder):
    _, rows = folder
    arms = {arm.name: arm for arm in study_arms.arms_of(rows, "one", "token")}
    assert arms["balanced"].seeds == SEEDS
    assert arms["token"].area_difference is None
    mine, other = (
        [row for row in rows if (row["cell"], row["arm"]) == ("one", arm) and row["seed"] < 100]
        for arm in ("balanced", "token")
    )
    changed = [
        np.mean(a["correct"]) - np.mean(b["correct"]) for a, b in zip(mine, other, strict=True)
    ]
    test = stats.ttest_1samp(changed, 0.0)
    found = arms["balanced"].area_difference
    assert found.estimate == pytest.approx(0.05)
    assert found.p_value == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    ends = [
        np.array([[int(x) for x in row["held_out"][-1]] for row in part]) for part in (mine, other)
    ]
    assert arms["balanced"].end_difference == paired_interval(*ends)


def test_stars_are_by_holm_over_all_cells(folder):
    _, rows = folder
    cells = {cell: study_arms.arms_of(rows, cell, "token") for cell in ("one", "two")}
    every = [arm for arms in cells.values() for arm in arms if arm.end_difference]
    adjusted = holm([arm.end_difference.p_value for arm in every])
    text = "\n".join(study.arms_table(cells))
    ends = [line.split("|")[8] for line in text.splitlines() if "`token`" not in line][2:]
    assert len(ends) == 4
    assert sum("*" in end for end in ends) == sum(p < 0.05 for p in adjusted)


def test_steps_to_a_level_are_of_the_smoothed_accuracy():
    assert study_arms.steps_to([0.1] * 5 + [0.9] * 5, 0.5) == 8
    assert study_arms.steps_to([0.1] * 10, 0.5) is None


def test_the_best_prediction_has_the_highest_correlation(folder):
    path, rows = folder
    (path / "predictions").mkdir()
    better = {"token": 0.5, "balanced": 0.6, "sequence": 0.45}
    for cell in ("one", "two"):
        rules = {
            name: {
                measure: {"value": value if measure == "snr/sgd" else -value}
                for measure in study.MEASURES
            }
            for name, value in better.items()
        }
        (path / "predictions" / f"{cell}.json").write_text(json.dumps({"rules": rules}))
    cells = {cell: study_arms.arms_of(rows, cell, "token") for cell in ("one", "two")}
    lines = study.predictions_table(path, cells, "token")
    by_measure = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines[2:]}
    right, wrong = by_measure["`snr/sgd`"], by_measure["`cosine/sgd`"]
    assert (right[0].strip(), right[1].strip(), right[3].strip()) == ("4", "+1.00", "100%")
    assert (wrong[1].strip(), wrong[3].strip()) == ("-1.00", "0%")


def test_means_average_a_seeds_differences_over_cells(folder):
    cells = {cell: study_arms.arms_of(folder[1], cell, "token") for cell in ("one", "two")}
    found = study_arms.mean_differences(cells)["balanced"]
    runs = {cell: study_results.compared(folder[1], cell) for cell in cells}
    changes = [
        np.mean(
            [
                np.mean(of["balanced"][seed]["correct"]) - np.mean(of["token"][seed]["correct"])
                for of in runs.values()
            ]
        )
        for seed in range(SEEDS)
    ]
    expected = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert found.estimate == pytest.approx(np.mean(changes))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert any("`balanced`" in line for line in study.means_table(cells))


def test_a_cell_in_progress_is_left_out(folder):
    """Of the cell `three` one arm has fewer seeds, and of `four` one arm has not begun."""
    rows = folder[1]
    rows += [made(arm, 0, cell="three") for arm in ("token", "balanced", "sequence")]
    rows += [made("token", seed, cell="three") for seed in range(1, SEEDS)]
    rows += [made("token", seed, cell="four") for seed in range(SEEDS)]
    assert study_arms.cells_of(rows) == (["one", "two"], ["three", "four"])


def test_a_picture_shows_every_difference_beside_its_name(folder, monkeypatch):
    """Also where a cell holds its arms in another order."""
    path, rows = folder
    cells = {cell: study_arms.arms_of(rows, cell, "token") for cell in ("one", "two")}
    cells["two"].reverse()
    monkeypatch.setattr(plt, "close", lambda _: None)
    study.draw(path / "study.png", cells)
    assert (path / "study.png").stat().st_size > 1000
    *panels, mean = plt.gcf().axes
    assert mean.get_title() == "mean of 2"
    for ax, arms in zip(panels, cells.values(), strict=True):
        labels = [label.get_text() for label in plt.gcf().axes[0].get_yticklabels()]
        points = [bar.lines[0].get_xydata()[0] for bar in ax.containers]
        found = {labels[round(y)]: x for x, y in points}
        expected = {
            arm.name: 100 * arm.area_difference.estimate for arm in arms if arm.area_difference
        }
        assert found == pytest.approx(expected)
    monkeypatch.undo()
    plt.close("all")


def test_a_cell_without_the_baseline_or_a_prediction_is_refused(folder):
    path, rows = folder
    with pytest.raises(UserError, match="no finished run of the baseline constant; it has token"):
        study_arms.arms_of(rows, "one", "constant")
    with pytest.raises(UserError, match="one has no prediction"):
        study.predictions_table(path, {"one": study_arms.arms_of(rows, "one", "token")}, "token")
