"""Count lines of Python code in each room, without docstrings, comments and blank lines.

    python -m scripts.count_code            # the files that git tracks, as they are on disk
    python -m scripts.count_code v0.1.0     # the tree of a git revision

Prints a Markdown table. A room is a folder of at most two levels, such as recipe/maths.
"""

import ast
import io
import subprocess
import tarfile
import tokenize
from collections import Counter
from collections.abc import Iterator

from recipe.base.command import command_parser
from recipe.base.paths import ROOT
from recipe.base.tables import markdown_table

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return how many lines of a Python file hold code; strings that stand alone hold none."""
    strings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - strings)


def git(*arguments: str) -> bytes:
    """Return what a git command prints in this repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def sources(revision: str | None) -> Iterator[tuple[str, str]]:
    """Yield path and text of each Python file, on disk or in a git revision."""
    if revision is None:
        for path in git("ls-files", "*.py").decode().splitlines():
            if (ROOT / path).exists():
                yield path, (ROOT / path).read_text()
        return
    # One archive instead of one `git show` for each of some hundred files.
    with tarfile.open(fileobj=io.BytesIO(git("archive", revision))) as archive:
        for member in archive:
            if member.name.endswith(".py") and (file := archive.extractfile(member)):
                yield member.name, file.read().decode()


def room(path: str) -> str:
    """Return the first two folders of a path, or `.` for a file at the top."""
    return "/".join(path.split("/")[:-1][:2]) or "."


def table(revision: str | None) -> list[str]:
    """Return a Markdown table of rooms with their files and lines of code."""
    lines, files = Counter[str](), Counter[str]()
    for path, source in sources(revision):
        num_lines = code_lines(source)
        for name in (room(path), "total"):
            lines[name] += num_lines
            files[name] += 1
    rooms = [*sorted(lines.keys() - {"total"}), "total"]
    rows = [(name, str(files[name]), f"{lines[name]:,}") for name in rooms]
    return markdown_table(("room", "files", "code lines"), rows)


def main() -> None:
    """Print the table."""
    parser = command_parser("scripts.count_code", __doc__)
    parser.add_argument("revision", nargs="?", metavar="REV", help="git revision (default: disk)")
    print("\n".join(table(parser.parse_args().revision)))


if __name__ == "__main__":
    main()
