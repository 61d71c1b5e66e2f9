import pytest

from benchmarks.live_study import COMPARED, differences, levels, missing, train
from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS
from recipe.study.plan import Run, Study
from recipe.study.runs import Results

STUDY = Study.read(CONFIGS / "study" / "finding.yaml")


def rows(cell, arm, areas):
    return [
        {
            "cell": cell,
            "arm": arm,
            "seed": seed,
            "is_selection": False,
            "correct": [area - 0.1, area + 0.1],
        }
        for seed, area in enumerate(areas)
    ]


def both(*differences):
    """Runs of both cells, whose differences to the baseline are these."""
    return [
        row
        for cell, arm in COMPARED.items()
        for row in rows(cell, "token", [0.5, 0.6, 0.7])
        + rows(cell, arm, [base + d for base, d in zip((0.5, 0.6, 0.7), differences, strict=True)])
    ]


def test_the_runs_of_a_seed_come_together_and_none_is_repeated(tmp_path):
    results = Results(tmp_path / "results.jsonl")
    runs = missing(STUDY, results, [3, 4])
    assert [run.seed for run in runs] == [3] * 4 + [4] * 4
    assert {(run.cell, run.arm) for run in runs[:4]} == {
        (cell, arm) for cell, other in COMPARED.items() for arm in ("token", other)
    }
    results.add(runs[0]._asdict() | {"overrides": STUDY.config_overrides(runs[0])})
    assert missing(STUDY, Results(results.path), [3, 4]) == runs[1:]


def test_differences_are_paired_and_the_stacks_compared_by_welchs_interval():
    """Live: mean 2, standard deviation 1; laboratory: mean 1, standard deviation 1.

    t intervals of 3 seeds have a half of 4.303 / sqrt(3), Welch's one of 4 degrees of freedom has
    2.776 * sqrt(2 / 3).
    """
    text = differences(both(0.01, 0.02, 0.03), both(0.00, 0.01, 0.02))
    for line in text[2:]:
        assert "| +2.00 +- 2.48 |" in line and "| +1.00 +- 2.48 |" in line
        assert line.endswith(" +1.00 +- 2.27 |")


def test_levels_are_paired_by_seed():
    """The live areas of `token` are 50, 60 and 70. The laboratory's are 2, 3 and 4 points lower."""
    beside = [
        row
        for cell, arm in COMPARED.items()
        for name in ("token", arm)
        for row in rows(cell, name, [0.48, 0.57, 0.66, 0.9])
    ]
    _, _, first, *others = levels(both(0.01, 0.02, 0.03), beside)
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[1:] == ["`token`", "3", "60.00", "57.00", "+3.00 +- 2.48"]
    assert len(others) == 3


def test_a_run_that_fails_is_reported_with_what_it_said(tmp_path):
    run = Run("level_steady", "token", -1.0, 0)
    study = Study(**{**STUDY.__dict__, "overrides": ["+experiment=nope"]})
    with pytest.raises(UserError, match="there is no config experiment/nope"):
        train(study, run, tmp_path)
