import json
import subprocess
import sys
from pathlib import Path

import pytest
from dumps import row, write

from recipe.analyze import chosen_rules, default_folder, main
from recipe.base.errors import UserError
from scripts.tiny_tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dump(tmp_path):
    """Two steps of four groups; wrong responses are twice as long as right ones."""
    for step in (1, 2):
        rows = [row(number, step=step) for number in range(16)]
        write(tmp_path / f"rollouts/{step}.jsonl", [*rows, row(0, uid=f"pad{0:032x}_0_0")])
    return tmp_path / "rollouts"


@pytest.fixture
def analyzed(monkeypatch, tmp_path, capsys):
    """Run the command in this process: output, warnings, numbers."""

    def run(*arguments):
        command = ["analyze", *map(str, arguments), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", command)
        main()
        printed = capsys.readouterr()
        return printed.out, printed.err, json.loads((tmp_path / "out/analysis.json").read_text())

    return run


def test_the_command_answers_in_words_a_table_pictures_and_numbers(dump, tmp_path):
    command = [sys.executable, "-m", "recipe.analyze", str(dump), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Lengths 5 and 10 in halves: two thirds of the tokens are negative.
    assert done.stdout.startswith("The run is too short to tell whether lengths moved")
    assert (
        "\n\nUnder `token_batch`, taken as the rule of this run, negative responses had 66.7% "
        "[66.7, 66.7] of the objective; `balanced` would have given them 50.0% [50.0, 50.0]."
        in done.stdout
    )
    assert "finds `sequence` relatively better than `token`" in done.stdout
    assert "32 responses in 8 groups of steps 1 to 2 in the format verl" in done.stdout
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["analysis.json", "analysis.md", "length.png", "share.png"]
    found = json.loads((tmp_path / "out/analysis.json").read_text())
    assert found["run"]["sign_length_coupling/token"]["value"] == pytest.approx(-0.6931, abs=1e-4)
    assert found["steps"]["2"]["length_gap"]["value"] == pytest.approx(5 / 7.5)
    assert found["command"].startswith("python -m recipe.analyze ")
    assert found["commit"] and found["versions"]["numpy"] and found["seed"] == 0
    report = (tmp_path / "out/analysis.md").read_text()
    assert "\n\nThe run is too short" in report
    assert found["explanation"] == done.stdout.splitlines()[0]
    assert all(name in report for name in ("![share](share.png)", found["command"], "| balanced"))


@pytest.mark.parametrize(
    "lines, arguments, said",
    [
        ([row(0), "{"], [], "1.jsonl:2: found a line that is no JSON"),
        ([], [], "no response was found"),
        ([row(0), row(4)], [], "none of 2 groups by uid has two responses"),
        ([row(0, response_length=0)], [], "every response has length 0"),
        ([row(0)], ["--length-column", "tokens"], "no column 'tokens'"),
        ([row(0)], ["--rule", "lambda"], "--exponent"),
        ([row(0)], ["--positive-factor", "-1"], "--positive-factor is -1"),
        (
            [
                row(0, uid=f"p_{number}_0", response_length=10 - 9 * (number == 0))
                for number in range(200)
            ],
            ["--exponent", "1"],
            "groups this large",
        ),
    ],
)
def test_bad_input_ends_in_one_paragraph(lines, arguments, said, tmp_path, analyzed):
    path = write(tmp_path / "1.jsonl", lines)
    with pytest.raises(SystemExit) as stop:
        analyzed(path, *arguments)
    message = str(stop.value.code)
    assert message.startswith("error: ") and said in message and "\n" not in message


def test_bad_lines_can_be_skipped_and_are_counted(dump, analyzed):
    with (dump / "2.jsonl").open("a") as file:
        file.write('{"input": "cut o')
    printed, _, _ = analyzed(dump, "--skip-bad")
    assert "1 bad lines" in printed


def test_without_token_counts_characters_are_warned_of_twice(tmp_path, analyzed):
    rows = [{k: v for k, v in row(n).items() if k != "response_length"} for n in range(8)]
    printed, warned, _ = analyzed(write(tmp_path / "1.jsonl", rows))
    assert warned.startswith("warning: Lengths are in characters")
    assert "- Warning: Lengths are in characters" in printed


def test_a_named_tokenizer_counts_the_outputs(dump, tmp_path, analyzed):
    build_tokenizer().save_pretrained(tmp_path / "tokenizer")
    printed, warned, found = analyzed(dump, "--tokenizer", tmp_path / "tokenizer")
    assert "tokens of the text in `output` by the tokenizer" in printed and "warning" not in warned
    # Each x is a token: 10 of the right, 20 of the wrong.
    assert found["run"]["length_gap"]["value"] == pytest.approx(10 / 15)


def test_what_a_dump_lacks_or_has_in_several_outputs_is_stated(tmp_path, analyzed):
    old = [{k: v for k, v in row(n).items() if k != "uid"} for n in range(8)]
    assert "The dump has no uid" in analyzed(write(tmp_path / "1.jsonl", old))[0]
    turns = [row(n, uid=f"a_{n // 2}_{n % 2}") for n in range(8)]
    assert "Samples have several outputs" in analyzed(write(tmp_path / "2.jsonl", turns))[0]


def test_equal_scores_leave_nothing_to_share(tmp_path, analyzed):
    rows = [row(number, score=0.1) for number in range(8)]
    printed, _, found = analyzed(write(tmp_path / "1.jsonl", rows))
    assert "No rule would have changed this run" in printed
    assert "Every advantage is 0" in printed.splitlines()[0]
    assert found["run"]["objective_share_negative/token"]["value"] is None


def test_the_estimator_and_the_rule_are_stated(dump, analyzed):
    printed, _, found = analyzed(
        dump, "--advantage", "dr_grpo", "--rule", "balanced", "--exponent", "-1"
    )
    assert "the rule `balanced` (--rule) and the advantage `dr_grpo`" in printed
    assert found["run"]["objective_share_negative/lambda"]["value"] < 2 / 3


def test_a_factor_of_positive_advantages_goes_with_every_rule(dump, analyzed):
    """It takes nine tenths of one sign: s becomes s / (s + 0.1 * (1 - s))."""
    _, _, plain = analyzed(dump)
    printed, _, found = analyzed(dump, "--positive-factor", "0.1")
    assert "positive advantages have a factor of 0.1 (--positive-factor)" in printed
    for rule in ("token", "balanced", "sequence"):
        key = f"objective_share_negative/{rule}"
        share = plain["run"][key]["value"]
        expected = share / (share + 0.1 * (1 - share))
        assert found["run"][key]["value"] == pytest.approx(expected)


def test_the_learned_rule_needs_its_exponent():
    assert "lambda" not in chosen_rules("token", None)
    with pytest.raises(UserError, match="--exponent"):
        chosen_rules("lambda", None)


def test_an_analysis_is_named_by_the_folder_of_the_dump(dump):
    expected = Path("outputs/analysis/rollouts")
    assert default_folder(dump) == default_folder(dump / "1.jsonl") == expected
