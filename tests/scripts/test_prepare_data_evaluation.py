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

from reward.grader import Grader, Row
from reward.sources import ANY, RewardSettings
from scripts.data.catalogue import DATA_SETS

OLYMPIAD = {
    "id": 1606,
    "question": "Find all $x$.",
    "solution": ["..."],
    "final_answer": ["$2$"],
    "context": None,
    "image_1": None,
    "image_2": None,
    "modality": "Text-only",
    "difficulty": "Competition",
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Algebra",
    "subject": "Math",
    "language": "English",
}


def olympiad(tmp_path, *changes):
    rows = [OLYMPIAD | {"question": f"Q{n}"} | change for n, change in enumerate(changes)]
    return prepare(tmp_path, "olympiadbench", write_lines(tmp_path / "o.jsonl", rows))


def outcome(answer, truth):
    grader = Grader(RewardSettings(workers=1))
    try:
        return grader.grade(Row(rf"\boxed{{{answer}}}", truth, ANY)).outcome
    finally:
        grader.close()


def test_every_data_set_is_written_under_a_name_that_the_reward_knows():
    for data_set in DATA_SETS.values():
        RewardSettings().find(data_set.data_source)


def test_math500_keeps_what_is_known_of_a_problem(tmp_path):
    row = {
        "problem": "Convert $(0,3)$.",
        "solution": "...",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
    found = prepare(tmp_path, "math500", write_lines(tmp_path / "test.jsonl", [row]))
    assert found.prompts == [f"Convert $(0,3)$.{SUFFIX}"]
    assert found.truths == [row["answer"]]
    kept = {key: value for key, value in found.info[0].items() if value is not None}
    assert kept == {
        "index": 0,
        "split": "test",
        "question_id": "test/precalculus/807.json",
        "subject": "Precalculus",
        "difficulty": "2",
    }


AIME_LAYOUTS = {
    "HuggingFaceH4": {"id": 60, "problem": "A", "solution": "", "answer": "204", "url": ""},
    "Maxwell-Jia": {"ID": "2024-I-1", "Problem": "A", "Solution": "", "Answer": 204},
    "math-ai": {"problem": "A", "answer": "204", "id": "0"},
    "opencompass": {"question": "A", "answer": "204"},
}


@pytest.mark.parametrize("name", ["aime24", "aime25"])
@pytest.mark.parametrize("layout", AIME_LAYOUTS)
def test_aime_is_read_in_every_layout_and_asks_as_dapo_does(tmp_path, name, layout):
    source = write_parquet(tmp_path / "a.parquet", [AIME_LAYOUTS[layout]])
    found = prepare(tmp_path, name, source)
    assert (found.prompts, found.truths) == ([f"{BEFORE}A{AFTER}"], ["204"])
    assert found.rows[0]["data_source"] == name


def test_dapos_aime_file_of_32_copies_becomes_30_problems(tmp_path):
    rows = [dapo_row(f"P{n}", f"{n:03}") | {"data_source": "math_dapo"} for n in range(30)] * 32
    found = prepare(tmp_path, "aime24", write_parquet(tmp_path / "a.parquet", rows, DAPO_SCHEMA))
    assert found.truths == [f"{n:03}" for n in range(30)]
    assert {row["data_source"] for row in found.rows} == {"aime24"}


def test_a_degree_sign_in_an_answer_stays_and_is_graded(tmp_path):
    source = write_lines(tmp_path / "a.jsonl", [{"question": "A", "answer": "336^\\circ"}])
    found = prepare(tmp_path, "aime25", source)
    assert outcome("336", found.truths[0]) == "correct"


def test_several_answers_become_a_list_that_the_grader_accepts_in_any_order(tmp_path):
    found = olympiad(
        tmp_path,
        {"final_answer": ["$2$", "$\\frac{1}{2}$"], "is_multiple_answer": True},
        {"final_answer": ["120,240"], "is_multiple_answer": True},
        {"final_answer": ["120,240"], "is_multiple_answer": False},
    )
    assert found.truths == ["$2$, $\\frac{1}{2}$", "120, 240", "120,240"]
    assert outcome("0.5, 2", found.truths[0]) == outcome("240, 120", found.truths[1]) == "correct"
    assert outcome("2", found.truths[0]) == outcome("120240", found.truths[1]) == "incorrect"
    assert outcome("120240", found.truths[2]) == "correct"
    assert [x["is_multiple_answer"] for x in found.info] == [True, True, False]


def test_olympiadbench_keeps_unit_context_and_tolerance_and_says_so(tmp_path):
    found = olympiad(tmp_path, {"unit": "cm"}, {"context": "Let $f(x)=x$."}, {"error": "1e-1"})
    assert found.prompts[1] == f"Let $f(x)=x$.\n\nQ1{SUFFIX}"
    assert [x["unit"] for x in found.info] == ["cm", None, None]
    assert [x["tolerance"] for x in found.info] == [None, None, "1e-1"]
    (note,) = found.manifest["notes"]
    assert note.startswith("1 rows allow their answer a tolerance")


def test_olympiadbench_is_text_only_mathematics_with_a_final_answer(tmp_path):
    found = olympiad(
        tmp_path,
        {},
        {"modality": "Multimodal"},
        {"image_1": "..."},
        {"subject": "Physics"},
        {"final_answer": None, "question_type": "Theorem proof"},
    )
    assert len(found.rows) == 1
    reasons = [(line["index"], line["reason"]) for line in found.dropped]
    assert reasons == [(1, "out_of_set"), (2, "out_of_set"), (3, "out_of_set"), (4, "malformed")]
    assert found.counts["rows_out_of_set"] == 3


def test_olympiadbench_is_english(tmp_path):
    found = olympiad(tmp_path, {}, {"language": "Chinese"}, {"language": None})
    assert [x["index"] for x in found.info] == [0, 2]
    (line,) = found.dropped
    assert (line["index"], line["reason"]) == (1, "out_of_set")
    assert line["detail"] == "language is Chinese"
    rows = [{"question": x, "answer": "1", "language": x} for x in ("English", "Chinese")]
    source = write_lines(tmp_path / "plain.jsonl", rows)
    found = prepare(tmp_path, "olympiadbench", source, "--overwrite")
    assert [line["reason"] for line in found.dropped] == ["out_of_set"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "A", "answer": "12"},
        {"problem": "A", "solution": "First \\boxed{3}, so \\boxed{12} cm.", "type": "", "idx": 1},
    ],
)
def test_minerva_has_its_answer_in_a_column_or_in_the_last_box_of_the_solution(tmp_path, row):
    found = prepare(tmp_path, "minerva", write_lines(tmp_path / "a.jsonl", [row]))
    assert (found.prompts, found.truths) == ([f"A{SUFFIX}"], ["12"])


def test_a_solution_without_a_box_is_dropped(tmp_path):
    rows = [{"problem": "A", "solution": "12"}, {"problem": "B", "solution": "\\boxed{1}"}]
    found = prepare(tmp_path, "minerva", write_lines(tmp_path / "a.jsonl", rows))
    assert found.truths == ["1"] and "holds no \\boxed{}" in found.dropped[0]["detail"]


@pytest.mark.parametrize("name", DATA_SETS)
def test_columns_of_no_layout_are_refused_with_those_found_and_those_read(tmp_path, capsys, name):
    source = write_parquet(tmp_path / "a.parquet", [{"query": "A", "gold": "1"}])
    message = refused(capsys, name, "--source", source, "--out", tmp_path / "out")
    assert "a.parquet has the columns query, gold" in message
    assert " + ".join(DATA_SETS[name].layouts[0].columns) in message
    assert list((tmp_path / "out").iterdir()) == []
