"""Share what every command does: parse arguments, report errors, keep a table in a document."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipe.base.errors import UserError
from recipe.base.tables import between_marks

# The exit code of a shell command that Ctrl-C ended.
INTERRUPTED = 130


def command_parser(module: str, doc: str | None) -> ArgumentParser:
    """Return the parser of `python -m MODULE`, with help from the docstring of the module."""
    description, _, rest = (doc or "").partition("\n\n")
    return ArgumentParser(
        f"python -m {module}",
        description=description,
        epilog=rest,
        formatter_class=RawDescriptionHelpFormatter,
    )


@contextmanager
def errors_reported(*others: type[Exception], stopped: str = "") -> Iterator[None]:
    """Exit with code 1 and one paragraph on a UserError, and with code 130 on Ctrl-C.

    Args:
        others: further errors whose text is written for a person.
        stopped: what to say after Ctrl-C.
    """
    try:
        yield
    except (UserError, *others) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        sys.exit(INTERRUPTED)


def add_into(parser: ArgumentParser, name: str) -> None:
    """Add the option `--into FILE` of a command that generates the table `name`."""
    help_text = f"write the table between the marks {name}:begin and {name}:end of this file"
    parser.add_argument("--into", type=Path, metavar="FILE", help=help_text)


def show_table(lines: Sequence[str], name: str, into: Path | None) -> None:
    """Print a table, or write it between the marks `name` of the document `into`.

    Raises:
        UserError: the document cannot be read or written, or has no such marks.
    """
    if into is None:
        print("\n".join(lines))
        return
    try:
        into.write_text(between_marks(into.read_text(), name, lines))
    except OSError as error:
        raise UserError(f"--into is {into}: {error.strerror}. Name a document.") from None
    except ValueError as error:
        raise UserError(f"--into is {into}: {error}") from None
