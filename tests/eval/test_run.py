import asyncio
import json
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import prepare, write_lines

from eval.tables.results import read_results
from recipe.base.seeds import request_seed
from recipe.sampling.vllm_engine import Request, respond
from reward import grade as grade_command

TRUTHS = [str(n) for n in range(3)]
AIME = [{"id": n, "problem": f"Problem {n}?", "answer": truth} for n, truth in enumerate(TRUTHS)]


@pytest.fixture
def aime(tmp_path):
    """Three problems of AIME 2025, prepared."""
    return prepare(tmp_path, "aime25", write_lines(tmp_path / "aime.jsonl", AIME))


def some_correct(request):
    """Of 32 samples of problem p, the first 8 p are right; every 16th states nothing."""
    _, problem, number = request.key.split("/")
    if int(number) % 16 == 15:
        return "Hm."
    correct = int(number) < 8 * int(problem)
    return f"Answer: {problem if correct else 100 + int(number) % 4}"


def test_a_result_says_what_was_sampled_and_how_it_was_graded(engine, evaluate, model, aime):
    engine.says = some_correct
    folder = evaluate(model, "--tasks", "aime25")
    result = json.loads((folder / "aime25.json").read_text())
    correct = [sum(number < 8 * p and number % 16 != 15 for number in range(32)) for p in range(3)]
    assert result["correct"] == correct
    assert result["metrics"]["mean@32"] == pytest.approx(sum(correct) / 96)
    assert set(result["metrics"]) == {"mean@32", "standard_error"} | {
        f"{name}@{k}" for name in ("pass", "maj") for k in (2, 4, 8, 16, 32)
    }
    # At 32: one right class against four wrong ones, of which none is as frequent.
    assert result["metrics"]["maj@32"] == pytest.approx(2 / 3)
    assert result["rates"]["no_answer"] == float(Fraction(2 * 3, 96))
    assert result["data"]["sha256"] == aime.manifest["content_sha256"]
    assert result["template"]["name"] == "dapo"
    assert result["task_version"] == 1
    assert result["sampling"] == {
        "samples": 32,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": result_room(engine),
    }
    assert result["run"] is None
    assert {"commit", "command", "versions", "seed", "seconds"} <= set(result)
    [session] = result["sampled"]
    assert session["commit"] == result["commit"]
    # What tables read, strictly.
    [read] = read_results([folder])
    assert read.correct_P.tolist() == correct
    assert engine.arguments["max_model_len"] <= 4096


def result_room(engine):
    """The model has 4,096 positions, fewer than the task's 8,192 tokens."""
    return 4096 - max(len(request.tokens) for request in engine.asked)


def test_every_sample_has_a_seed_of_its_own_that_says_what_it_is(engine, evaluate, model, aime):
    evaluate(model, "--tasks", "aime25", "--seed", 5)
    assert len({request.seed for request in engine.asked}) == len(engine.asked) == 96
    for request in engine.asked:
        task, problem, number = request.key.split("/")
        assert request.seed == request_seed(5, task, int(problem), int(number))


def test_what_is_there_is_not_sampled_again(engine, evaluate, model, aime, capsys):
    engine.dies_after = 40
    with pytest.raises(SystemExit, match=r"the engine died.*All samples so"):
        evaluate(model, "--tasks", "aime25")
    engine.dies_after = None
    folder = evaluate(model, "--tasks", "aime25")
    assert Counter(request.key for request in engine.asked).most_common(1)[0][1] == 1
    assert len(engine.asked) == 96
    assert len(json.loads((folder / "aime25.json").read_text())["sampled"]) == 2
    before = (folder / "aime25.samples.jsonl").read_bytes()
    evaluate(model, "--tasks", "aime25")
    assert len(engine.asked) == 96
    assert (folder / "aime25.samples.jsonl").read_bytes() == before


def test_samples_can_be_graded_again_alone_and_by_reward_grade(
    engine, evaluate, model, aime, tmp_path
):
    with pytest.raises(SystemExit, match="lacks 96 samples"):
        evaluate(model, "--tasks", "aime25", "--grade-only")
    engine.says = some_correct
    folder = evaluate(model, "--tasks", "aime25")
    first = json.loads((folder / "aime25.json").read_text())
    (folder / "aime25.json").unlink()
    evaluate(model, "--tasks", "aime25", "--grade-only")
    again = json.loads((folder / "aime25.json").read_text())
    assert again["metrics"] == first["metrics"]
    rows, out = folder / "aime25.graded.jsonl", tmp_path / "again.jsonl"
    assert grade_command.main([str(rows), "--out", str(out)]) == 0
    for one, other in zip(rows.open(), out.open(), strict=True):
        one, other = json.loads(one), json.loads(other)
        assert (one["outcome"], one["score"]) == (other["outcome"], other["score"])


def test_samples_of_another_seed_limit_or_model_are_refused(engine, evaluate, model, aime):
    evaluate(model, "--tasks", "aime25")
    with pytest.raises(SystemExit, match=r"another setup: seed was 0 and is 1"):
        evaluate(model, "--tasks", "aime25", "--seed", 1)
    with pytest.raises(SystemExit, match=r"another setup: sampling was .*'max_tokens': 64"):
        evaluate(model, "--tasks", "aime25", "--max-tokens", 64)
    (model / "config.json").write_text('{"max_position_embeddings": 4096, "x": 1}')
    with pytest.raises(SystemExit, match=r"another setup: model was"):
        evaluate(model, "--tasks", "aime25")


def test_a_response_at_the_limit_counts_as_truncated(engine, evaluate, model, aime):
    engine.says = lambda request: "1 + 1 = 2\n" * 9
    folder = evaluate(model, "--tasks", "aime25", "--max-tokens", 16)
    result = json.loads((folder / "aime25.json").read_text())
    assert result["rates"]["truncated"] == 1.0
    assert result["length"] == {"mean": 16.0, "correct": None, "incorrect": 16.0}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["MODEL", "--tasks", "aime26"], r"error: there is no task 'aime26'"),
        (["MODEL", "--tasks", "math500"], r"error: task math500 names .*scripts.prepare_data math"),
        (["nowhere", "--tasks", "aime25"], r"error: nowhere is no folder of a run"),
        (["a/b/c", "--tasks", "aime25"], r"error: a/b/c is no folder of a run"),
        (["MODEL", "--tasks", "aime25", "--workers", "0"], r"error: --workers is 0; it must be 1"),
        (["MODEL", "--tasks", "aime25", "--max-tokens", "0"], r"error: --max-tokens is 0"),
    ],
)
def test_what_is_not_there_is_said_in_one_paragraph(engine, evaluate, model, aime, words, problem):
    with pytest.raises(SystemExit, match=problem):
        evaluate(*(str(model) if word == "MODEL" else word for word in words))


def test_words_for_the_chat_template_are_checked(engine, evaluate, model, aime):
    for word in ("enable_thinking=false", "messages"):
        with pytest.raises(SystemExit, match=f"--chat-template is {word}, but it takes NAME=VALUE"):
            evaluate(model, "--tasks", "aime25", "--chat-template", word)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking is false %}{% endif %}")
    folder = evaluate(model, "--tasks", "aime25", "--chat-template", "enable_thinking=False")
    result = json.loads((folder / "aime25.json").read_text())
    assert result["chat_template"] == {"enable_thinking": False}
    template.unlink()
    with pytest.raises(SystemExit, match="has no chat template"):
        evaluate(model, "--tasks", "aime25")


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_a_response_that_the_engine_gave_up_is_no_sample(reason):
    completion = SimpleNamespace(token_ids=[1], finish_reason=reason)

    class GivesUp:
        async def generate(self, prompt, parameters, key):
            yield SimpleNamespace(outputs=[completion])

    request = Request("t/0/0", [1], 0, 1.0, 1.0, 5)
    with pytest.raises(RuntimeError, match="vLLM ended a response by"):
        asyncio.run(respond(GivesUp(), request))
    completion.finish_reason = "length"
    assert asyncio.run(respond(GivesUp(), request)) == ([1], True)


def test_a_ground_truth_that_cannot_be_read_is_refused_before_anything_is_sampled(
    engine, evaluate, model, aime, tmp_path
):
    path = tmp_path / "out" / "aime25.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1]["reward_model"]["ground_truth"] = "$ $"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(SystemExit, match=r"error: the reward refuses the data: ground truth is"):
        evaluate(model, "--tasks", "aime25")
    assert not engine.asked


def test_a_prompt_without_room_for_a_response_is_refused(engine, evaluate, model, aime):
    (model / "config.json").write_text('{"max_position_embeddings": 20}')
    with pytest.raises(SystemExit, match=r"aime25 has a prompt of \d+ tokens, and .* takes 20"):
        evaluate(model, "--tasks", "aime25")


PUBLIC = {
    "math500": {
        "problem": "P",
        "solution": "",
        "answer": "1",
        "subject": "A",
        "level": 1,
        "unique_id": "u",
    },
    "aime24": {"id": 60, "problem": "P", "solution": "", "answer": "1", "url": "", "year": "2024"},
    "aime25": {"problem": "P", "answer": "1", "id": "0"},
    "olympiadbench": {
        "id": 1,
        "question": "P",
        "solution": [""],
        "final_answer": ["$1$"],
        "context": None,
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
    },
    "minerva": {"question": "P", "answer": "1"},
    "livecodebench": {
        "question_title": "T",
        "question_content": "Print 1.",
        "platform": "atcoder",
        "question_id": "a",
        "contest_id": "c",
        "contest_date": "2024-08-17T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "metadata": "{}",
        "public_test_cases": json.dumps([{"input": "\n", "output": "1\n", "testtype": "stdin"}]),
        "private_test_cases": json.dumps([]),
    },
}


def test_all_six_benchmarks_are_evaluated_from_files_in_their_public_schemas(
    engine, evaluate, model, tmp_path
):
    for name, row in PUBLIC.items():
        lines = [row, row | {"problem": "Q", "question": "Q", "question_content": "Print one."}]
        prepare(tmp_path, name, write_lines(tmp_path / f"{name}.jsonl", lines))
    answer = r"The answer is \boxed{1}." + "\n```python\nprint(1)\n```"
    engine.says = lambda request: answer if int(request.key[-1]) % 2 else "No idea."
    folder = evaluate(model, "--tasks", ",".join(PUBLIC))
    for name in PUBLIC:
        result = json.loads((folder / f"{name}.json").read_text())
        samples = result["sampling"]["samples"]
        assert result["correct"] == [samples // 2] * 2, name
        assert result["rates"]["no_answer"] == 0.5
        assert (f"maj@{samples}" in result["metrics"]) == (name != "livecodebench")
