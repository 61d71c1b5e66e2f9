import pytest

from recipe.base.command import (
    INTERRUPTED,
    add_into,
    command_parser,
    errors_reported,
    show_table,
)
from recipe.base.errors import UserError


def test_a_user_error_becomes_a_message_and_a_failing_exit_code():
    with pytest.raises(SystemExit) as stop, errors_reported():
        raise UserError("no such file.")
    # A text as exit code is printed to stderr, and the process ends with 1.
    assert stop.value.code == "error: no such file."


def test_an_error_that_was_named_becomes_a_message_too():
    with pytest.raises(SystemExit) as stop, errors_reported(OSError):
        raise OSError("the disk is full")
    assert stop.value.code == "error: the disk is full"


@pytest.mark.parametrize("text", ["", "stopped; the rest is kept"])
def test_ctrl_c_ends_with_the_code_of_a_shell_and_a_text(text, capsys):
    with pytest.raises(SystemExit) as stop, errors_reported(stopped=text):
        raise KeyboardInterrupt
    assert stop.value.code == INTERRUPTED
    assert capsys.readouterr().err.strip() == text


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), errors_reported():
        _ = 1 / 0


def test_the_help_shows_name_and_docstring():
    text = command_parser("a.b", "Do it.\n\n    python -m a.b X").format_help()
    assert text.startswith("usage: python -m a.b [-h]")
    assert "\nDo it.\n" in text
    assert text.endswith("\n    python -m a.b X\n")


def test_a_table_is_printed_or_written_between_its_marks(tmp_path, capsys):
    parser = command_parser("a.b", None)
    add_into(parser, "t")
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- t:begin -->\nold\n<!-- t:end -->\n")
    show_table(["new"], "t", parser.parse_args([]).into)
    assert capsys.readouterr().out == "new\n"
    show_table(["new"], "t", parser.parse_args(["--into", str(document)]).into)
    assert capsys.readouterr().out == ""
    assert document.read_text() == "before\n<!-- t:begin -->\nnew\n<!-- t:end -->\n"


@pytest.mark.parametrize("text", [None, "no marks\n"])
def test_a_document_that_cannot_hold_the_table_is_named(tmp_path, text):
    document = tmp_path / "README.md"
    if text is not None:
        document.write_text(text)
    with pytest.raises(UserError, match=f"--into is {document}"):
        show_table(["new"], "t", document)
