import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.math.extract import extract

DAPO = ("answer_line", "boxed")
POLARIS = ("boxed", "answer_line")
ANY = ("boxed", "answer_line", "sentence")


def test_the_extracted_answer_has_no_markup():
    assert extract("So **Answer: $\\boxed{34}$.**<|im_end|>", DAPO) == "34"
    assert extract("$$\\boxed{\\frac{1}{2}}$$", POLARIS) == "\\frac{1}{2}"
    assert extract("\\boxed{(0, 1]}", POLARIS) == "(0, 1]"


def test_the_first_form_that_finds_an_answer_decides():
    response = "Answer: 34\nor \\boxed{35}"
    assert extract(response, DAPO) == "34"
    assert extract(response, POLARIS) == "35"
    assert extract(response, ("sentence",)) is None


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("\\boxed{3} or \\boxed{4}", "3, 4"),
        ("$x=\\boxed{3}$, $y=\\boxed{4}$", "3, 4"),
        ("\\boxed{3}\\text{ and }\\boxed{4}", "3, 4"),
        ("\\boxed{3}, \\boxed{3}", "3"),
        ("\\boxed{3}, \\boxed{4}, \\boxed{3}", "3, 4, 3"),
        ("\\boxed{\\boxed{3}\\boxed{4}}", "3, 4"),
        ("Answer: 3.14...", "3.14..."),
        ("Answer: $3.14$...", "3.14"),
        ("\\boxed{3} and then \\boxed{4}", "4"),
        ("\\boxed{3}\n\\boxed{4}", "4"),
        ("\\boxed{3}. So, and this is it: \\boxed{4}", "4"),
        ("Answer: 3 Answer: 4", "3, 4"),
        ("Answer: 3\nAnswer: 4", "4"),
    ],
)
def test_joined_answers_form_a_list_and_otherwise_the_last_one_counts(response, found):
    assert extract(response, ANY) == found


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("The final answer is $\\frac12$. I hope it is correct.", "\\frac12"),
        ("Final Answer: The final answer is $28 \\%$. I hope it is correct.", "28 \\%"),
        ("So the answer to the question is 42 because 6 times 7 is 42.", "42"),
        ("The answer is: **7**.", "7"),
        ("The answer is 3.5. Not 4.", "3.5"),
        ("The answer is clear.\nSo 7.", "clear"),
    ],
)
def test_a_sentence_states_the_text_up_to_its_end(response, found):
    assert extract(response, ANY) == found


@pytest.mark.parametrize(
    ("response", "after", "require", "ignore"),
    [
        ("<think>\\boxed{1}</think>\\boxed{2}", "2", "2", "2"),
        ("<think>\\boxed{1}</think>", None, None, "1"),
        ("<think>\\boxed{1}", None, None, "1"),
        ("\\boxed{1}", "1", None, "1"),
        ("\\boxed{1}</think>no", None, None, "1"),
        ("<think>a</think>\\boxed{1}<think>b</think>\\boxed{2}", "2", "2", "2"),
        ("<think>a</think>\\boxed{1}<think>b", None, None, "1"),
    ],
)
def test_an_answer_in_the_thinking_counts_only_if_tags_are_ignored(
    response, after, require, ignore
):
    assert extract(response, ANY, "after") == after
    assert extract(response, ANY, "require") == require
    assert extract(response, ANY, "ignore") == ignore


@pytest.mark.parametrize("form", ["answer", "box", ""])
def test_a_misspelt_form_is_refused(form):
    with pytest.raises(KeyError, match=form):
        extract("Answer: 34", (form,))


@given(st.text(max_size=60))
def test_text_without_a_marker_states_no_answer(text):
    if "answer" not in text.casefold() and "box" not in text:
        assert extract(text, ANY) is None


@given(st.text(alphabet="aA\u0130nNsSwWeErR:\u1e9e\n 1{}\\boxed", max_size=60))
def test_capitals_that_grow_in_lower_case_shift_no_positions(text):
    """Read a text with capitals such as `\u0130`, whose lower case has two characters."""
    assert extract(text + "\nAnswer: 34", ("answer_line",)) == "34"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "unit",
    [
        *("\\boxed{", "\\boxed{1}", "\\boxed{1},", "\\boxed ", "{", "{}", "Answer:", "Answer: 1\n"),
        *(
            "answer*",
            "answer is ",
            "answer is $",
            "answer is\n",
            "\n",
            " ",
            "$",
            "*",
            ".",
            ",.",
            ";",
        ),
        *("<|", "</s>", "<think>", "</think>", "1", "1,", "x=", "\\;", "\u0130", "\u0301\u0316"),
    ],
)
def test_a_megabyte_of_anything_is_read_in_linear_time(unit):
    """Read a megabyte. Quadratic work takes many minutes, linear work a few seconds at most."""
    text = unit * (1_000_000 // len(unit))
    for response in (f"Answer: {text}x", f"\\boxed{{{text}}}", f"{text}\nx", f"answer is {text}"):
        extract(response, ANY)
        extract(response, DAPO)


@pytest.mark.timeout(300)
def test_nesting_of_any_depth_is_read():
    depth = 100_000
    assert extract("\\boxed{" * depth + "34" + "}" * depth, POLARIS) == "34"
