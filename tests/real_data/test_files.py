"""Read a folder of published files: `make test-data DATA=FOLDER`.

Every row of a known file must become a prompt, or be listed with the reason. Every ground truth
must be graded correct against itself, in each form that the data source looks for.
"""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reward.grader import Grader, Row
from reward.sources import RewardSettings, Source
from scripts.prepare_data import main

FOLDER = Path(os.environ.get("DATA", "nowhere"))
# File, data set, rows.
KNOWN = [
    ("math500.jsonl", "math500", 500),
    ("aime24.jsonl", "aime24", 30),
    ("polaris_aime24.parquet", "aime24", 30),
    ("polaris_aime25.parquet", "aime25", 30),
    ("minerva.jsonl", "minerva", 272),
    ("polaris_minerva.parquet", "minerva", 272),
    ("olympiad_en.jsonl", "olympiadbench", 675),
    ("polaris_olympiad.parquet", "olympiadbench", 675),
    ("amc23.jsonl", "amc23", 40),
    ("gsm8k.jsonl", "gsm8k", 1319),
    ("gsm8k_train.arrow", "gsm8k_train", 8792),
    ("svamp.jsonl", "svamp", 1000),
]
FORMS = {
    "boxed": "So it is $\\boxed{%s}$.",
    "answer_line": "We add.\nAnswer: %s",
    "hash_mark": "We add.\n#### %s",
    "sentence": "So the answer is $%s$.",
}


def prepared(file, name, out, *options):
    path = FOLDER / file
    if not path.exists():
        pytest.fail(f"{FOLDER} has no {file}. Set DATA to the folder of the published files.")
    assert main([name, "--source", str(path), "--out", str(out), *options]) == 0
    manifest = json.loads((out / f"{name}.manifest.json").read_text())
    dropped = (out / f"{name}.dropped.jsonl").read_text().splitlines()
    return pq.read_table(out / f"{name}.parquet").to_pylist(), manifest["counts"], dropped


@pytest.mark.parametrize(("file", "name", "rows"), KNOWN, ids=[file for file, _, _ in KNOWN])
def test_every_row_becomes_a_prompt_whose_answer_is_correct_against_itself(
    file, name, rows, tmp_path
):
    made, counts, dropped = prepared(file, name, tmp_path)
    assert counts["rows_read"] == rows
    assert (len(made), dropped) == (rows, [])
    settings = RewardSettings()
    grader = Grader(settings)
    asked = []
    for row in made:
        source = settings.find(row["data_source"])
        assert isinstance(source, Source)
        truth = row["reward_model"]["ground_truth"]
        asked += [
            Row(FORMS[form] % truth, truth, source, row["extra_info"]) for form in source.forms
        ]
    try:
        wrong = [
            (row.response, verdict)
            for row, verdict in zip(asked, grader.grade_many(asked), strict=True)
            if verdict.outcome != "correct"
        ]
    finally:
        grader.close()
    assert not wrong, f"{len(wrong)} of {len(asked)}, such as {wrong[:5]}"


def test_the_training_file_that_holds_the_test_set_is_cleaned(tmp_path):
    prepared("gsm8k.jsonl", "gsm8k", tmp_path)
    against = ("--against", str(tmp_path / "gsm8k.parquet"), "--remove-overlap")
    _, counts, dropped = prepared("gsm8k_train.arrow", "gsm8k_train", tmp_path, *against)
    # All 1,319 test questions, and four training questions that share 13 words with one.
    removed = sorted(json.loads(line)["index"] for line in dropped)
    assert counts["prompts_overlapping"] == len(removed) == 1323
    assert removed[:4] == [480, 780, 5078, 7373]
    assert removed[4:] == list(range(7473, 8792))
    assert counts["prompts_written"] == 7469
