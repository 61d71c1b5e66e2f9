import json

import numpy as np
import pytest
from evaluations import content, write, write_content

from eval.tables.grid import arrange, commit_notes, model_settings
from eval.tables.results import read_results


def test_a_result_is_read_with_its_run_and_the_values_of_its_problems(tmp_path):
    path = write(tmp_path, correct=[4, 0, 3, 1], run__overrides=["b=2", "a=1"])
    (result,) = read_results([tmp_path])
    assert result.file == path
    assert (result.task, result.num_samples) == ("math500", 4)
    np.testing.assert_array_equal(result.value_P, [1, 0, 0.75, 0.25])
    assert result.run.row == "qwen3_1_7b_polaris a=1 b=2"
    assert (result.run.method, result.run.seed, result.run.step) == ("balanced", 0, 400)


def test_other_files_and_folders_moved_aside_are_passed_over(tmp_path):
    write(tmp_path / "runs")
    write(tmp_path / "runs~1")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "summary.json").write_text('{"val_end": 1}')
    assert len(read_results([tmp_path])) == 1
    # The same file by two ways is one result; a folder that is named is read whatever its name.
    assert len(read_results([tmp_path, tmp_path / "runs"])) == 1
    assert len(read_results([tmp_path / "runs~1"])) == 1


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no evaluation below"):
        read_results([tmp_path])
    with pytest.raises(ValueError, match=r"none is no folder; name"):
        read_results([tmp_path / "none"])


@pytest.mark.parametrize("text", ["", '{"kind": "evaluation"'])
def test_a_file_that_was_cut_off_is_named(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: it is not JSON"):
        read_results([tmp_path])


KEYS = [
    *(key for key in content() if key != "kind"),
    *(
        f"{above}.{key}"
        for above in ("sampling", "data", "model", "run", "rates", "length")
        for key in content()[above]
    ),
    "template.name",
    "template.version",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key, tmp_path):
    found = content()
    *above, last = key.split(".")
    place = found[above[0]] if above else found
    del place[last]
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=rf"a\.json: {key} is missing.*evaluate again"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": 3}, "task is 3, but must be a text"),
        ({"task_version": "1"}, "task_version is 1, but must be a whole number"),
        ({"task_version": True}, "task_version is true, but must be a whole number"),
        ({"sampling": 4}, "sampling is 4, but must be an object"),
        ({"sampling__temperature": "hot"}, "sampling.temperature is hot, but must be a number"),
        ({"sampling__temperature": float("nan")}, "sampling.temperature is NaN, but must be"),
        ({"sampling__samples": 0}, "sampling.samples is 0, but must be at least 1"),
        ({"template": "boxed"}, "template is boxed, but must be an object or null"),
        ({"run": "a"}, "run is a, but must be an object or null"),
        ({"run__overrides": [1]}, r"run.overrides\[0\] is 1, but must be a text"),
        ({"run__length_gap": "wide"}, "run.length_gap is wide, but must be a number or null"),
        ({"rates__timeout": 1.5}, "rates.timeout is 1.5, but must be at most 1"),
        ({"metrics__maj@4": "high"}, "metrics.maj@4 is high, but must be a number or null"),
        (
            {"metrics__mean@4": 0.9},
            "metrics.mean@4 is 0.9, but must be 0.5000, the mean of",
        ),
        ({"data__problems": 5}, "correct is a list of 4, but must be one number for each of the 5"),
        ({"correct": [4, 0, 5, 1]}, r"correct\[2\] is 5, but must be a whole number from 0 to 4"),
        ({"correct": [4, -1, 3, 1]}, r"correct\[1\] is -1, but must be"),
        ({"correct": [4, 0.5, 3, 1]}, r"correct\[1\] is 0.5, but must be"),
        ({"__correct": [4, None, 3, 1]}, r"correct\[1\] is null, but must be"),
        ({"correct": [2], "data__problems": 1}, "correct is a list of 1, .*two at least"),
    ],
)
def test_a_value_that_cannot_be_is_named(changed, said, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content(**changed)))
    with pytest.raises(ValueError, match=rf"a\.json: {said}") as error:
        read_results([tmp_path])
    assert "Evaluate again" in str(error.value)


def test_values_that_may_be_unknown_are_taken(tmp_path):
    write(
        tmp_path,
        template=None,
        commit=None,
        run__commit=None,
        run__length_gap=None,
        run__length_variation=None,
        length__correct=None,
        **{"metrics__maj@4": None},
    )
    assert read_results([tmp_path])[0].run.length_gap is None


@pytest.mark.parametrize("rule", ["token", None])
def test_two_results_of_one_checkpoint_and_task_are_refused_with_both_files(rule, tmp_path):
    paths = [write(tmp_path / name, rule=rule) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"are both of .* Keep one of them") as error:
        read_results([tmp_path])
    assert all(str(path) in str(error.value) for path in paths)


def test_a_checkpoint_that_is_two_models_is_refused(tmp_path):
    write(tmp_path)
    write(tmp_path, task="aime24", model__sha256="trained again")
    with pytest.raises(ValueError, match=r"of one checkpoint, .*model\.sha256 is .*trained again"):
        read_results([tmp_path])


@pytest.mark.parametrize(
    ("changed", "key", "values"),
    [
        ({"sampling__temperature": 0.6}, "sampling.temperature", ("1.0", "0.6")),
        ({"sampling__max_tokens": 9}, "sampling.max_tokens", ("3072", "9")),
        ({"template__version": "f"}, "template.version", ('"0123456789ab"', '"f"')),
        ({"template": None}, "template.name", ('"boxed"', "not set")),
        ({"data__sha256": "f"}, "data.sha256", ('"math500-data"', '"f"')),
        ({"reward": {"sandbox": "rlimits"}}, "reward.sandbox", ('"landlock"', '"rlimits"')),
        ({"reward": {"sandbox": "landlock", "more": 1}}, "reward.more", ("not set", "1")),
        (
            {"chat_template__enable_thinking": False},
            "chat_template.enable_thinking",
            ("true", "false"),
        ),
        ({"__seed": 1}, "seed", ("0", "1")),
        ({"task_version": 2}, "task_version", ("1", "2")),
    ],
)
def test_results_of_a_row_that_were_not_made_alike_are_refused(changed, key, values, tmp_path):
    first = write(tmp_path)
    second = write_content(tmp_path, content(rule="token", **changed))
    with pytest.raises(ValueError) as error:
        arrange(read_results([tmp_path]))
    said = str(error.value)
    assert f"{first} and {second} cannot stand in one table: {key} of math500 is" in said
    assert f"{values[0]} in the first and {values[1]} in the second" in said
    assert f"Evaluate one of them again with the other's {key}" in said


def test_rows_may_differ_in_settings_but_not_in_task_versions(tmp_path):
    write(tmp_path, data__file="elsewhere.parquet")
    other = {"rule": "token", "experiment": "cpu_demo"}
    path = write(tmp_path, sampling__max_tokens=9, **other)
    assert [row.name for row in arrange(read_results([tmp_path]))] == [
        "cpu_demo",
        "qwen3_1_7b_polaris",
    ]
    path.write_text(json.dumps(content(task_version=2, **other)))
    with pytest.raises(ValueError, match="task_version of math500 is 2 in the first and 1 in"):
        arrange(read_results([tmp_path]))


def test_where_data_lie_does_not_matter(tmp_path):
    write(tmp_path)
    write(tmp_path, rule="token", data__file="elsewhere.parquet")
    assert arrange(read_results([tmp_path]))[0].methods == ["token", "balanced"]


def test_an_unknown_task_is_answered_with_those_that_there_are(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="no result is of aime24; there are math500"):
        arrange(read_results([tmp_path]), ["aime24"])


def test_a_task_that_is_not_asked_for_does_not_matter(tmp_path):
    write(tmp_path)
    write(tmp_path, task="aime24")
    write(tmp_path, task="aime24", rule="token", seed=1, task_version=2)
    (row,) = arrange(read_results([tmp_path]), ["math500"])
    assert (row.methods, row.tasks) == (["balanced"], ("math500",))


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"data__sha256": "f"}, "data.sha256"),
        ({"reward": {"sandbox": "rlimits"}}, "reward.sandbox"),
        ({"sampling__temperature": 0.0}, "sampling.temperature"),
        ({"template__name": "dapo"}, "template.name"),
        ({"__seed": 1}, "seed"),
    ],
)
@pytest.mark.parametrize("other", [{"rule": None}, {"experiment": "qwen3_1_7b_dapo_17k"}])
def test_nor_can_rows_of_one_table_differ_in_how_a_task_was_done(changed, key, other, tmp_path):
    write(tmp_path)
    write_content(tmp_path, content(**other, **changed))
    with pytest.raises(ValueError, match=rf"cannot stand in one table: {key} of math500 is"):
        arrange(read_results([tmp_path]))


def test_rows_may_differ_in_what_belongs_to_a_model_and_it_is_said(tmp_path):
    write(tmp_path)
    changed = {"sampling__max_tokens": 9, "chat_template": {}}
    write_content(tmp_path, content(experiment="qwen3_1_7b_dapo_17k", **changed))
    said = model_settings(arrange(read_results([tmp_path])))
    assert said == [
        "math500, sampling.max_tokens: 9 of qwen3_1_7b_dapo_17k; 3072 of qwen3_1_7b_polaris.",
        'math500, chat_template: {} of qwen3_1_7b_dapo_17k; {"enable_thinking": true} of '
        "qwen3_1_7b_polaris.",
    ]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"run__commit": "aaa-dirty, bbb"}, "trained by different commits: aaa-dirty, bbb"),
        ({"run__commit": "aaa-dirty"}, "trained by code that no commit holds: aaa-dirty"),
        ({"run__commit": None}, "trained by code that no commit holds: unknown"),
        (
            {"sampled": [{"commit": "old", "versions": {}}, {"commit": "new", "versions": {}}]},
            "sampled by different commits: new, old",
        ),
    ],
)
def test_every_commit_that_made_a_result_counts(changed, note, tmp_path):
    write_content(tmp_path, content(**changed))
    assert note in commit_notes(read_results([tmp_path]))


def test_folders_of_models_and_of_runs_moved_aside_are_not_looked_into(tmp_path):
    write(tmp_path)
    for folder in (
        "run~1/eval",
        "run/exported/global_step_3",
        "run/checkpoints/global_step_3/actor/huggingface",
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "tokenizer.json").write_text("no JSON")
    assert len(read_results([tmp_path])) == 1
