import pytest
from prepared import prepare, refused, write_lines, write_parquet

from scripts.data.overlap import COMMON, EvaluationSets, runs

WORDS = [f"w{n}" for n in range(40)]
LONG = " ".join(WORDS)


def text(start, stop, before="a b c", after="d e f"):
    return " ".join([before, *WORDS[start:stop], after])


@pytest.fixture
def against(tmp_path):
    """An evaluation file, as the command writes it: a long problem and a short one."""
    source = write_lines(
        tmp_path / "eval.jsonl",
        [{"problem": LONG, "answer": "1"}, {"problem": "Find $x^2$.", "answer": "2"}],
    )
    prepare(tmp_path / "eval", "math500", source)
    return tmp_path / "eval/out/math500.parquet"


def training(tmp_path, problems):
    rows = [{"problem": problem, "answer": "1"} for problem in problems]
    return write_lines(tmp_path / "train.jsonl", rows)


def test_overlap_is_measured_by_thirteen_words_and_removed_only_when_asked(tmp_path, against):
    problems = [
        text(0, 12),  # twelve words in a row
        text(5, 18),  # thirteen
        text(5, 18, after="else").upper().replace(" ", ", "),
        text(0, 40),
        "Find   $X^2$.",
        "Find x 2",
        "Let us find $x^2$.",
    ]
    source = training(tmp_path, problems)
    found = prepare(tmp_path, "polaris", source, "--against", against)
    report = found.manifest["overlap"][str(against)]
    assert (report["overlapping"], report["share"]) == (4, 4 / 7)
    assert list(report["rows"]) == ["1", "2", "3", "4"]
    assert report["rows"]["1"] == " ".join(WORDS[5:18])
    assert len(found.rows) == 7 and found.dropped == []
    options = ["--against", against, "--remove-overlap", "--overwrite"]
    removed = prepare(tmp_path, "polaris", source, *options)
    assert [x["index"] for x in removed.info] == [0, 5, 6]
    assert [(x["index"], x["reason"]) for x in removed.dropped] == [
        (n, "overlapping") for n in (1, 2, 3, 4)
    ]
    assert removed.dropped[0]["shared"] == {str(against): " ".join(WORDS[5:18])}
    assert removed.counts["prompts_overlapping"] == 4
    assert removed.manifest["overlap"] == found.manifest["overlap"]


def test_the_number_of_words_is_an_option(tmp_path, against):
    source = training(tmp_path, [text(0, 12), text(0, 11)])
    found = prepare(tmp_path, "polaris", source, "--against", against, "--ngram", "12")
    assert list(found.manifest["overlap"][str(against)]["rows"]) == ["0"]


def test_templates_are_no_overlap(tmp_path, against):
    source = training(tmp_path, ["p q r s t u v w x y z"])
    options = ["--template", "dapo", "--against", against]
    found = prepare(tmp_path, "polaris", source, *options)
    assert found.manifest["overlap"][str(against)]["overlapping"] == 0
    again = prepare(tmp_path / "b", "dapo_17k", tmp_path / "out/polaris.parquet", *options[2:])
    assert again.manifest["overlap"][str(against)]["overlapping"] == 0


def test_a_phrase_of_very_many_prompts_is_no_overlap_and_counted_apart(tmp_path, against):
    problems = [text(0, 13, before=f"only {n}") for n in range(COMMON + 1)]
    source = training(tmp_path, [*problems, text(20, 40)])
    found = prepare(tmp_path, "polaris", source, "--against", against)
    report = found.manifest["overlap"][str(against)]
    assert list(report["rows"]) == [str(COMMON + 1)]
    assert report["common_phrases_only"] == COMMON + 1
    fewer = training(tmp_path, problems[:COMMON])
    found = prepare(tmp_path, "polaris", fewer, "--against", against, "--overwrite")
    assert found.manifest["overlap"][str(against)]["overlapping"] == COMMON


def test_several_evaluation_files_are_told_apart(tmp_path, against):
    row = {"prompt": [{"role": "user", "content": text(20, 40)}], "data_source": "x"}
    other = write_parquet(tmp_path / "other.parquet", [row])
    source = training(tmp_path, [text(0, 15), text(25, 40), "nothing"])
    found = prepare(tmp_path, "polaris", source, "--against", against, other)
    rows = {name: list(x["rows"]) for name, x in found.manifest["overlap"].items()}
    assert rows == {str(against): ["0", "1"], str(other): ["1"]}


def test_prompts_with_conflicting_answers_are_not_compared(tmp_path, against):
    rows = [{"problem": text(0, 15), "answer": answer} for answer in "12"]
    rows.append({"problem": "nothing", "answer": "1"})
    source = write_lines(tmp_path / "train.jsonl", rows)
    found = prepare(tmp_path, "polaris", source, "--against", against, "--remove-overlap")
    assert found.manifest["overlap"][str(against)]["overlapping"] == 0
    assert [line["reason"] for line in found.dropped] == ["conflicting"]


def test_prompts_that_are_too_easy_are_not_compared(tmp_path, against):
    rows = [
        {"problem": text(0, 15), "answer": "1", "difficulty": "7/8"},
        {"problem": "nothing", "answer": "1", "difficulty": "1/8"},
    ]
    source = write_lines(tmp_path / "train.jsonl", rows)
    options = ["--against", against, "--remove-overlap", "--max-pass-rate", "0.5"]
    found = prepare(tmp_path, "polaris", source, *options)
    assert found.manifest["overlap"][str(against)]["overlapping"] == 0
    assert found.counts["prompts_filtered"] == 1 and len(found.rows) == 1


def test_the_table_says_how_many_overlap(tmp_path, against, capsys):
    source = training(tmp_path, [text(0, 15), "nothing"])
    prepare(tmp_path, "polaris", source, "--against", against)
    line = next(x for x in capsys.readouterr().out.splitlines() if str(against) in x)
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["1", "50.00%", "0"]


def test_each_chinese_character_is_a_word():
    problem = "设实数甲乙丙丁戊己庚辛壬癸满足x"  # 16 of them, and x
    found = runs(problem, 13)
    assert len(found) == len("设实数甲乙丙丁戊己庚辛壬癸满足x") - 12
    assert " ".join("设实数甲乙丙丁戊己庚辛壬") + " 癸" in found


def test_signs_tell_short_problems_apart():
    evaluation = EvaluationSets({"a": ["1 + 1"]})
    assert evaluation.shared("1  + 1") and not evaluation.shared("1 - 1")


def test_a_file_without_prompts_is_refused(tmp_path, capsys):
    source = training(tmp_path, ["A"])
    arguments = ["polaris", "--source", source, "--out", tmp_path / "out", "--against"]
    assert "is not a file" in refused(capsys, *arguments, tmp_path / "no.parquet")
    plain = write_parquet(tmp_path / "plain.parquet", [{"problem": "A"}])
    assert "has no column prompt; found problem" in refused(capsys, *arguments, plain)
    incorrect = write_parquet(tmp_path / "wrong.parquet", [{"prompt": [{"role": "system"}]}])
    assert "row 0, has no prompt" in refused(capsys, *arguments, incorrect)
    assert not (tmp_path / "out").exists()
