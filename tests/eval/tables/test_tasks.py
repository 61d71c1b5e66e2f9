import re

from evaluations import cells, notes, rows_of, table_of, write

from eval.stats import mean_interval
from recipe.tasks.at_k import pass_at_k


def test_a_task_has_what_k_samples_reach_and_how_responses_end(tmp_path):
    rights = {0: [4, 0, 3, 1], 1: [0, 0, 4, 1]}
    for seed, correct in rights.items():
        write(
            tmp_path,
            correct=correct,
            seed=seed,
            rates__truncated=0.1 * seed,
            length__incorrect=1000.0 + seed * 100,
            length__correct=None if seed else 700.0,
        )
    write(tmp_path, rule=None, correct=[1, 0, 0, 0])
    made = table_of(rows_of(tmp_path), "task math500")
    line = cells(made)
    found = mean_interval([pass_at_k(correct, 4, 4) for correct in rights.values()])
    assert line["pass@k"] == "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in found[:3]))
    assert line["pass@k"].startswith("62.5 [")
    assert (line["k"], line["maj@k"]) == ("4", "75.0")
    assert (line["truncated, %"], line["no answer, %"], line["timeout, %"]) == ("5.0", "1.0", "0.0")
    assert (line["correct, tokens"], line["incorrect, tokens"]) == ("-", "1050")
    model = cells(made, 1)
    assert [model[key] for key in ("experiment or model", "method", "step")] == [
        "some/base-model",
        "-",
        "-",
    ]
    assert re.fullmatch(r"6\.2 \[.*\]", model["mean@k"])
    of_model = made.measurements[made.measurements.experiment == "some/base-model"]
    assert len(of_model) > 1
    assert of_model[["step", "seeds"]].isna().all(axis=None)
    assert (
        "Not runs of this project, with intervals over problems only: some/base-model."
    ) in made.remarks
    assert any("math500 version 1, 4 problems" in remark for remark in made.remarks)


def test_maj_is_of_the_largest_k_that_all_seeds_have(tmp_path):
    write(tmp_path, **{"metrics__maj@4": None})
    write(tmp_path, seed=1)
    assert cells(table_of(rows_of(tmp_path), "task math500"))["maj@k"] == "70.0 (k = 2)"
    metrics = {"mean@4": 0.5}
    write(tmp_path, metrics=metrics)
    assert cells(table_of(rows_of(tmp_path), "task math500"))["maj@k"] == "-"


def test_a_model_that_lacks_a_task_is_named_without_rule_and_seed(tmp_path):
    write(tmp_path, task="aime24")
    write(tmp_path, task="math500")
    write(tmp_path, task="math500", rule=None)
    made = table_of(rows_of(tmp_path), "tasks")
    assert cells(made, 1)["math500"].startswith("50.0 [")
    assert cells(made, 1)["average"] == "-"
    assert notes(made, "average", 1) == "missing: some/base-model: aime24"
