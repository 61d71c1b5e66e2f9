import json

import numpy as np
import pytest

from eval import power as module
from eval.power import MOST_SEEDS, Spread, main, power, report, seeds_needed, spread_of
from eval.stats import paired_interval

REPLICATIONS = 600


def differences(generator, difference, spread, num_seeds, num_problems):
    shape = num_seeds, num_problems
    return (
        difference
        + generator.normal(0, spread.seed, (num_seeds, 1))
        + generator.normal(0, spread.problem, (1, num_problems))
        + generator.normal(0, spread.rest, shape)
    )


@pytest.mark.parametrize(
    ("difference", "spread", "num_seeds", "num_problems"),
    [
        (2.5, Spread(2, 5, 40), 8, 200),
        (10, Spread(1, 30, 30), 16, 60),
        (1.5, Spread(0, 10, 40), 5, 1000),
        (2, Spread(1, 20, 30), 3, 500),
        (0, Spread(1, 20, 30), 4, 100),
    ],
)
def test_power_is_how_often_paired_interval_leaves_out_zero(
    difference, spread, num_seeds, num_problems
):
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(REPLICATIONS):
        drawn = differences(generator, difference, spread, num_seeds, num_problems)
        interval = paired_interval(drawn, np.zeros_like(drawn))
        found += not interval.low <= 0 <= interval.high
    # Three Monte Carlo errors, and 3 points for the approximation by a noncentral t.
    error = 3 * 0.5 / REPLICATIONS**0.5 + 0.03
    expected = power(difference, spread, num_seeds, num_problems)
    assert found / REPLICATIONS == pytest.approx(expected, abs=error)


def test_the_spread_is_found_again_in_simulated_differences():
    spread = Spread(2.0, 8.0, 15.0)
    generator = np.random.default_rng(1)
    drawn = [differences(generator, 1.0, spread, 40, 300) for _ in range(20)]
    found = np.mean([spread_of(one, np.zeros_like(one)) for one in drawn], axis=0)
    assert found == pytest.approx(spread, rel=0.05)


def test_the_number_of_seeds_is_the_first_with_the_wanted_power():
    spread = Spread(1.0, 5.0, 20.0)
    needed = seeds_needed(1.0, spread, 1000, 0.8)
    assert power(1.0, spread, needed, 1000) >= 0.8 > power(1.0, spread, needed - 1, 1000)


def test_seeds_do_not_help_against_the_differences_between_problems():
    spread = Spread(1.0, 20.0, 20.0)
    assert seeds_needed(0.5, spread, 100) is None
    assert power(0.5, spread, MOST_SEEDS, 100) < 0.8
    text = "\n".join(report(0.5, spread, 100, 0.8, 0.95))
    assert "No number of seeds is enough" in text
    assert "standard error of 2.00 points. Take more problems" in text


def test_without_noise_every_difference_is_seen():
    assert power(0.1, Spread(0, 0, 0), 2, 2) == 1
    with pytest.raises(ValueError, match="both must be 2 or more"):
        power(0.1, Spread(1, 1, 1), 1, 10)


def results(tmp_path, seeds=(0, 1, 2), cells=("one",)):
    generator = np.random.default_rng(2)
    path = tmp_path / "results.jsonl"
    rows = [
        {
            "cell": cell,
            "arm": arm,
            "seed": seed,
            "is_selection": False,
            "held_out": ["".join(map(str, generator.integers(0, 3, 50)))],
            "held_out_samples": 2,
        }
        for cell in cells
        for arm in ("token", "balanced")
        for seed in seeds
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_spread_comes_from_the_results_of_a_study(tmp_path, capsys):
    path = str(results(tmp_path))
    main(["--difference", "5", "--like", path, "balanced", "token"])
    out = capsys.readouterr().out
    assert "5 points on 50 problems with a power of 80%" in out
    assert out.startswith("Standard deviations of the difference in points: ")


def test_over_cells_the_spread_is_the_root_mean_square(tmp_path):
    path = str(results(tmp_path, cells=("one", "two")))
    (one, _), (two, _) = (
        module.spread_like(path, "balanced", "token", [cell]) for cell in ("one", "two")
    )
    both, problems = module.spread_like(path, "balanced", "token")
    assert problems == 50
    assert both == pytest.approx(
        [((a * a + b * b) / 2) ** 0.5 for a, b in zip(one, two, strict=True)]
    )
    assert one.rest != two.rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--like", "{path}", "balanced", "other"], "has no arm other in one. It has token, bal"),
        (["--problems", "10"], "the spread is not known: give --problems, --seed-sd"),
        (["--like", "{path}", "balanced", "token", "--problems", "1"], "--problems is 1"),
        (
            ["--like", "{path}", "balanced", "token", "--cells", "x"],
            "balanced in x. It has no arms",
        ),
        (["--like", "{path}/nowhere", "balanced", "token"], "has no result of a study"),
    ],
)
def test_what_gives_no_power_is_refused(tmp_path, words, said):
    path = str(results(tmp_path))
    with pytest.raises(SystemExit) as error:
        main(["--difference", "1", *(word.format(path=path) for word in words)])
    assert said in str(error.value)


def test_one_seed_gives_no_spread(tmp_path):
    path = str(results(tmp_path, seeds=(0,)))
    with pytest.raises(module.UserError, match="has 1 seeds of both balanced and token"):
        module.spread_like(path, "balanced", "token")
