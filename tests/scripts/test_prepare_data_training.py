import json

import pyarrow.parquet as pq
import pytest
from prepared import (
    AFTER,
    BEFORE,
    DAPO_SCHEMA,
    SUFFIX,
    dapo_row,
    prepare,
    refused,
    write_lines,
    write_parquet,
)

from recipe.config.data import check_data
from recipe.config.settings import Settings


def test_a_hundred_copies_of_dapos_prompts_become_one_each_with_the_published_template(tmp_path):
    rows = [dapo_row(f"What is {n} + 1?", str(n + 1)) for _ in range(100) for n in range(7)]
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows, DAPO_SCHEMA))
    assert found.prompts == [f"{BEFORE}What is {n} + 1?{AFTER}" for n in range(7)]
    assert found.truths == [str(n + 1) for n in range(7)]
    assert found.rows[3] == {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": f"{BEFORE}What is 3 + 1?{AFTER}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "4"},
        "extra_info": dict.fromkeys(found.info[3])
        | {
            "index": 3,
            "split": "train",
            "question_id": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079",
        },
    }
    assert found.counts["rows_read"] == 700
    assert found.counts["rows_repeated"] == 693
    assert found.counts["prompts"] == found.counts["prompts_written"] == 7
    assert found.dropped == []


def test_copies_differ_in_spaces_and_template_only(tmp_path):
    rows = [dapo_row("What is  1 + 1?"), dapo_row("What is 1 +\n1? "), dapo_row("what is 1 + 1?")]
    rows.append(dapo_row("What is 1 + 1?", template="boxed"))
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows))
    assert found.prompts == [f"{BEFORE}What is  1 + 1?{AFTER}", f"{BEFORE}what is 1 + 1?{AFTER}"]


def test_prompts_with_conflicting_answers_are_dropped_and_listed(tmp_path):
    rows = [dapo_row("A", "1"), dapo_row("B", "1/2"), dapo_row("A", "2"), dapo_row("B", "0.5")]
    rows += [dapo_row("A", "1")] * 3
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows))
    assert found.prompts == [f"{BEFORE}B{AFTER}"]
    (line,) = found.dropped
    assert line["answers"] == {"1": 4, "2": 1}
    assert (line["index"], line["reason"], line["problem"]) == (0, "conflicting", "A")
    assert found.counts["prompts_conflicting"] == 1


def test_a_conflict_stays_one_whatever_copies_follow(tmp_path):
    rows = [dapo_row("A", answer) for answer in ("1", "2", "1.0")] + [dapo_row("B")]
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows))
    assert len(found.rows) == found.counts["prompts_conflicting"] == 1


def test_a_prompt_that_has_the_template_is_kept_to_the_letter(tmp_path):
    rows = [dapo_row("  A ")]
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows))
    assert found.prompts == [f"{BEFORE}  A {AFTER}"]


def test_the_processed_layout_gets_the_template_it_lacks(tmp_path):
    rows = [
        {
            "prompt": "What is 1 + 1?",
            "solution": "2",
            "data_source": "math_dapo",
            "source_prompt": dapo_row("What is 1 + 1?")["prompt"],
            "ability": "MATH",
            "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "0"},
        }
    ]
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "en.parquet", rows))
    assert (found.prompts, found.truths) == ([f"{BEFORE}What is 1 + 1?{AFTER}"], ["2"])


@pytest.mark.parametrize(("language", "kept"), [("all", 3), ("en", 1), ("zh", 2)])
def test_chinese_prompts_are_an_option(tmp_path, language, kept):
    problems = ["设 $x^2=4$, 求 $x$ 的值。", "What is é + α?", "Let x be 数."]  # noqa: RUF001
    rows = [dapo_row(problem) for problem in problems] * 2
    source = write_parquet(tmp_path / "a.parquet", rows)
    found = prepare(tmp_path, "dapo_17k", source, "--language", language)
    assert len(found.rows) == kept
    assert found.counts["prompts_filtered"] == 3 - kept


@pytest.mark.parametrize(("template", "prompt"), [("boxed", f"A{SUFFIX}"), ("none", "A")])
def test_another_template_replaces_the_rows_own(tmp_path, template, prompt):
    source = write_parquet(tmp_path / "a.parquet", [dapo_row("A")])
    found = prepare(tmp_path, "dapo_17k", source, "--template", template)
    assert found.prompts == [prompt]
    assert found.manifest["template"]["name"] == template


def test_polaris_keeps_difficulty_and_gets_its_suffix_where_it_is_absent(tmp_path):
    rows = [
        {"problem": "A", "answer": "1", "difficulty": "7/8"},
        {"problem": f"B{SUFFIX}", "answer": "2", "difficulty": "0/8"},
    ]
    found = prepare(tmp_path, "polaris", write_lines(tmp_path / "polaris.jsonl", rows))
    assert found.prompts == [f"A{SUFFIX}", f"B{SUFFIX}"]
    assert [(x["difficulty"], x["pass_rate"]) for x in found.info] == [("7/8", 0.875), ("0/8", 0)]
    assert {row["data_source"] for row in found.rows} == {"polaris"}


def test_easy_prompts_of_polaris_can_be_left_out(tmp_path):
    rows = [{"problem": f"P{n}", "answer": "1", "difficulty": f"{n}/8"} for n in range(9)]
    source = write_lines(tmp_path / "polaris.jsonl", rows)
    found = prepare(tmp_path, "polaris", source, "--max-pass-rate", "0.75")
    assert [x["difficulty"] for x in found.info] == [f"{n}/8" for n in range(7)]
    assert found.counts["prompts_filtered"] == 2


def test_polaris_parquet_for_training_is_read_but_has_no_difficulty(tmp_path, capsys):
    rows = [
        {
            "data_source": "",
            "prompt": [{"role": "user", "content": f"A{SUFFIX}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "1"},
            "extra_info": {"split": "train", "index": 0},
        }
    ]
    source = write_parquet(tmp_path / "polaris-data-53K.parquet", rows)
    found = prepare(tmp_path, "polaris", source)
    assert (found.prompts, found.truths) == ([f"A{SUFFIX}"], ["1"])
    assert found.rows[0]["data_source"] == "polaris"
    arguments = ["--source", source, "--out", tmp_path / "b", "--max-pass-rate", "0.5"]
    message = refused(capsys, "polaris", *arguments)
    assert "1 rows without a difficulty for --max-pass-rate" in message


def test_a_row_without_difficulty_is_dropped_and_listed_only_when_it_is_asked_for(tmp_path):
    rows = [{"problem": f"P{n}", "answer": "1", "difficulty": "1/8"} for n in range(3)]
    rows[1]["difficulty"] = None
    source = write_lines(tmp_path / "a.jsonl", rows)
    found = prepare(tmp_path, "polaris", source, "--max-pass-rate", "0.5")
    assert [x["index"] for x in found.info] == [0, 2]
    (line,) = found.dropped
    assert (line["index"], line["reason"], line["problem"]) == (1, "without_difficulty", "P1")
    assert "no difficulty" in line["detail"] and found.counts["rows_without_difficulty"] == 1
    found = prepare(tmp_path, "polaris", source, "--overwrite")
    assert len(found.rows) == 3 and found.dropped == []


@pytest.mark.parametrize("order", [(7, 1, 4), (1, 7, 4), (4, 7, 1)])
def test_the_hardest_copy_of_a_prompt_decides_whatever_their_order(tmp_path, order):
    rows = [{"problem": "A", "answer": "1", "difficulty": f"{n}/8"} for n in order]
    rows += [{"problem": "B", "answer": "1", "difficulty": f"{n}/8"} for n in (7, 6)]
    rows.append({"problem": "C", "answer": "1", "difficulty": "2/8"})
    source = write_lines(tmp_path / "a.jsonl", rows)
    found = prepare(tmp_path, "polaris", source, "--max-pass-rate", "0.5")
    assert [row["prompt"][0]["content"][0] for row in found.rows] == ["A", "C"]
    known = [(x["index"], x["difficulty"], x["pass_rate"]) for x in found.info]
    assert known == [(0, "1/8", 0.125), (5, "2/8", 0.25)]
    assert found.counts["prompts_filtered"] == 1 and found.counts["rows_repeated"] == 3
    assert found.counts["prompts"] == 3


def test_an_answer_that_is_no_finite_number_is_dropped(tmp_path):
    values = ["NaN", "Infinity", "-Infinity", "1e999", "[1, NaN]", "2.0"]
    rows = [f'{{"problem": "P{n}", "answer": {value}}}' for n, value in enumerate(values)]
    found = prepare(tmp_path, "polaris", write_lines(tmp_path / "a.jsonl", rows))
    assert found.truths == ["2"]
    assert [line["index"] for line in found.dropped] == [0, 1, 2, 3, 4]
    assert all("finite number" in line["detail"] for line in found.dropped)
    rows = [{"problem": f"P{n}", "answer": value} for n, value in enumerate((1.0, float("nan")))]
    source = write_parquet(tmp_path / "a.parquet", rows)
    assert prepare(tmp_path, "polaris", source, "--overwrite").truths == ["1"]


def test_files_of_the_same_name_in_two_folders_are_told_apart(tmp_path, capsys):
    for folder, column in (("a", "problem"), ("b", "query")):
        (tmp_path / "source" / folder).mkdir(parents=True)
        rows = [{column: f"In {folder}", "answer": "1"}]
        write_lines(tmp_path / "source" / folder / "train.jsonl", rows)
    arguments = ["--source", tmp_path / "source", "--out", tmp_path / "out"]
    assert "b/train.jsonl has the columns query" in refused(capsys, "polaris", *arguments)


def test_what_cannot_be_read_is_dropped_with_its_reason_and_number(tmp_path):
    rows = [
        {"problem": "A", "answer": "1"},
        "{cut off",
        "[1]",
        {"problem": "B", "answer": None},
        {"problem": "", "answer": "1"},
        {"problem": "C", "answer": "$ $"},
        {"problem": "D", "answer": "2", "difficulty": "hard"},
        {"question": "E", "answer": "3"},
        {"problem": SUFFIX, "answer": "3"},
        '{"problem": "half \\ud800", "answer": "3"}',
        {"problem": ["F"], "answer": "3"},
        {"problem": "A", "answer": ""},
        {"problem": "G", "answer": 12},
    ]
    found = prepare(tmp_path, "polaris", write_lines(tmp_path / "a.jsonl", rows))
    assert (found.prompts, found.truths) == ([f"A{SUFFIX}", f"G{SUFFIX}"], ["1", "12"])
    reasons = {line["index"]: line["reason"] for line in found.dropped}
    unreadable = {5: "unreadable_truth", 11: "unreadable_truth"}
    assert reasons == dict.fromkeys([1, 2, 3, 4, 6, 7, 8, 9, 10], "malformed") | unreadable
    details = {line["index"]: line["detail"] for line in found.dropped}
    assert "no JSON" in details[1] and "expected one such as 7/8" in details[6]
    assert "columns are question, answer, expected problem + answer" in details[7]
    counts = found.counts
    assert counts["rows_malformed"] == 9 and counts["rows_unreadable_truth"] == 2
    assert (
        counts["rows_read"]
        == 13
        == sum(
            counts[key]
            for key in ("rows_malformed", "rows_unreadable_truth", "rows_repeated", "prompts")
        )
    )


def test_a_later_copy_stands_in_for_one_that_cannot_be_read(tmp_path):
    rows = [dapo_row("A", " "), dapo_row("A", "5")]
    found = prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows))
    assert found.truths == ["5"] and found.counts["rows_unreadable_truth"] == 1


def test_json_lists_and_folders_of_several_files_are_read_in_order(tmp_path):
    folder = tmp_path / "polaris"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([{"problem": "A", "answer": "1"}]))
    write_lines(folder / "b.jsonl", [{"problem": "B", "answer": "2"}])
    write_parquet(folder / "c.parquet", [{"problem": "C", "answer": "3"}])
    (folder / "README.md").write_text("no data")
    found = prepare(tmp_path, "polaris", folder)
    assert (found.truths, [x["index"] for x in found.info]) == (["1", "2", "3"], [0, 1, 2])
    assert [file["name"] for file in found.manifest["files"]] == ["a.json", "b.jsonl", "c.parquet"]
    found = prepare(tmp_path, "polaris", folder, "--files", "*.jsonl", "--overwrite")
    assert found.truths == ["2"]


def test_a_run_accepts_what_was_made_of_two_data_sets_together(tmp_path, composed):
    rows = [dapo_row(f"What is {n} + 1?", str(n + 1)) for n in range(8)]
    prepare(tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", rows, DAPO_SCHEMA))
    rows = [{"problem": f"P{n}", "answer": "1", "difficulty": "7/8"} for n in range(8)]
    prepare(tmp_path, "polaris", write_lines(tmp_path / "b.jsonl", rows))
    files = [f"{tmp_path}/out/{name}.parquet" for name in ("dapo_17k", "polaris")]
    config = composed(
        f"data.train_files=[{','.join(files)}]",
        f"data.val_files={files[1]}",
        "data.val_tasks=[]",
        "data.train_batch_size=16",
    )
    check_data(config, Settings.of(config))
    schemas = [pq.read_schema(file) for file in files]
    assert schemas[0] == schemas[1]  # verl puts the rows of all files into one table
