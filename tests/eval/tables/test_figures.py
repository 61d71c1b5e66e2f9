import matplotlib.pyplot as plt
import pytest
from evaluations import draw, laptop, write

from eval.tables.figures import points, write_figures
from eval.tables.grid import arrange
from eval.tables.results import read_results


def rows_of(folder):
    return arrange(read_results([folder]))


def two_rules(folder, **changed):
    """Two rules, two seeds, two steps, two tasks."""
    for r, rule in enumerate(("token", "balanced")):
        for seed in (0, 1):
            for step in (1, 2):
                for task in ("math500", "aime24"):
                    write(
                        folder,
                        correct=draw(0.5, 20, r, seed, step),
                        rule=rule,
                        seed=seed,
                        step=step,
                        task=task,
                        **changed,
                    )
    return folder


def names(found):
    return {path.name for path, _ in found}


def test_the_laptops_pictures_are_drawn_with_captions(tmp_path):
    pictures, left_out = write_figures(tmp_path, rows_of(laptop(tmp_path / "in")), "token")
    assert names(pictures) == {"steps_cpu_demo.png", "gain.png"}
    assert left_out == []
    for path, caption in pictures:
        height, width, _ = plt.imread(path).shape
        assert (height, width) > (600, 1000)
        assert "noise" in caption


def test_several_tasks_have_panels(tmp_path):
    two_rules(tmp_path)
    pictures, left_out = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert names(pictures) == {"steps_qwen3_1_7b_polaris.png", "gain.png"}
    assert left_out == []


def test_gains_are_paired_by_seed_and_know_the_baselines_lengths(tmp_path):
    write(tmp_path, correct=[4, 0, 0, 0], rule="token", run__length_gap=0.5)
    write(tmp_path, correct=[4, 4, 0, 0], run__length_gap=0.1)
    write(tmp_path, correct=[4, 4, 4, 0], seed=1)
    (point,), left_out = points(rows_of(tmp_path), "token")
    assert (point.method, point.seed, point.gain) == ("balanced", 0, 25.0)
    assert point.baseline.length_gap == 0.5
    assert left_out == ["no point of qwen3_1_7b_polaris, balanced, seed 1: token has no such seed"]


def test_lengths_that_are_not_known_leave_the_picture_out_and_say_so(tmp_path):
    two_rules(tmp_path, run__length_gap=None, run__length_variation=None)
    pictures, left_out = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert names(pictures) == {"steps_qwen3_1_7b_polaris.png"}
    assert left_out[0] == (
        "gain.png: 2 of 2 points have no length_variation: it is null in the results of token"
    )
    assert left_out[-1].startswith("gain.png: left out")


def test_one_known_length_is_drawn(tmp_path):
    two_rules(tmp_path, run__length_gap=None)
    pictures, left_out = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert "gain.png" in names(pictures)
    assert left_out == [
        "gain.png: 2 of 2 points have no length_gap: it is null in the results of token"
    ]


def test_one_step_has_no_picture_over_steps(tmp_path):
    write(tmp_path, rule="token")
    write(tmp_path)
    pictures, left_out = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert names(pictures) == {"gain.png"}
    assert left_out == [
        "steps_qwen3_1_7b_polaris.png: left out, as qwen3_1_7b_polaris was "
        "evaluated at one step alone"
    ]


@pytest.mark.parametrize("figure", ["steps_qwen3_1_7b_polaris.png", "gain.png"])
def test_points_that_lack_results_are_named(figure, tmp_path):
    folder = two_rules(tmp_path)
    (folder / "qwen3_1_7b_polaris" / "balanced-s1" / "step2-aime24.json").unlink()
    _, left_out = write_figures(tmp_path, rows_of(folder), "token")
    (said,) = [line for line in left_out if line.startswith(figure)]
    assert said.endswith("qwen3_1_7b_polaris, balanced, seed 1, step 2: aime24")


def test_a_row_without_the_baseline_is_named(tmp_path):
    write(tmp_path)
    _, left_out = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert "gain.png: no points of qwen3_1_7b_polaris: it has no results of token" in left_out


def test_experiments_with_overrides_do_not_overwrite_each_other(tmp_path):
    two_rules(tmp_path / "a")
    two_rules(tmp_path / "b", run__overrides=["lr=1"])
    pictures, _ = write_figures(tmp_path, rows_of(tmp_path), "token")
    assert len(names(pictures)) == 3
