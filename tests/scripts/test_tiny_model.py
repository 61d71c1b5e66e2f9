import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.tasks import embedded
from scripts import arithmetic, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer.build_tokenizer()


@pytest.mark.parametrize("task", sorted(arithmetic.TASKS))
def test_every_text_of_the_task_comes_back_from_its_tokens(tokenizer, task):
    random = Random(0)
    for expression in arithmetic.draw_expressions(0)["val"]:
        solution = arithmetic.draw_solution(arithmetic.TASKS[task], expression, random)
        prompt = arithmetic.row(expression, "0")["prompt"][0]["content"]
        for text in (solution, prompt, "Answer: 12", "x_1 \t~?"):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_digit_is_a_token(tokenizer):
    digits = tokenizer.encode("1203")
    assert len(digits) == 4
    assert len(set(digits)) == 4


def test_the_chat_template_opens_the_turn_of_the_assistant(tokenizer):
    messages = [{"role": "user", "content": "1 + 2"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n1 + 2<|im_end|>\n<|im_start|>assistant\n"


def test_prompts_and_solutions_fit_the_limits_of_the_configs(tokenizer, composed):
    limits = composed().data
    random = Random(0)
    for expression in arithmetic.draw_expressions(0)["train"][:500]:
        solution = arithmetic.draw_solution(arithmetic.TASKS["length_gap"], expression, random)
        assert len(tiny_model.encode_prompt(tokenizer, expression)) <= limits.max_prompt_length
        assert len(tokenizer.encode(solution)) < limits.max_response_length


@pytest.mark.slow
def test_a_folder_that_exists_is_not_overwritten(tmp_path):
    command = [
        sys.executable,
        "-m",
        "scripts.tiny_model",
        "--task",
        "length_gap",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "exists already" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "ratio"),
    [
        ("length_gap", (1.4, 2.5)),
        pytest.param("length_spread", (0.85, 1.15), marks=pytest.mark.exhaustive),
    ],
)
def test_a_made_model_is_what_the_demo_needs(task, ratio):
    """Made for real, or found in the user's cache where a run left it."""
    embedded.make(task)
    folder = Path(embedded.folder(task))
    card = json.loads((folder / "card.json").read_text())
    assert 0.15 <= card["accuracy"] <= 0.40
    assert 100_000 <= card["num_parameters"] <= 2_000_000
    assert ratio[0] <= card["length_ratio"] <= ratio[1]
    assert card["length_cv"] >= 0.35

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert model.config.model_type == "qwen3"
    groups = tiny_model.sample(model, tokenizer, arithmetic.draw_expressions(0)["val"][:64], 4)
    assert 0.1 <= tiny_model.accuracy(groups) <= 0.5
