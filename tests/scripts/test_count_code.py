import subprocess

import pytest

from recipe.base.paths import ROOT
from scripts.count_code import code_lines, room, table

SOURCE = '''"""A module.

Its docstring.
"""

import os  # a comment beside code


# A comment.
def f(x):
    """A docstring."""
    text = """a string
    that is code"""
    return os.path.join(x, text)
'''


def test_docstrings_comments_and_blank_lines_are_not_counted():
    assert code_lines(SOURCE) == 5


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.py", "."), ("eval/run.py", "eval"), ("reward/math/parse/x.py", "reward/math")],
)
def test_a_room_is_at_most_two_folders(path, expected):
    assert room(path) == expected


def test_the_total_is_the_sum_of_the_rooms():
    if not (ROOT / ".git").exists():
        pytest.skip("needs the git repository")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table("HEAD")[2:]]
    *rooms, (name, files, lines) = [(a, int(b), int(c.replace(",", ""))) for a, b, c in cells]
    assert name == "total"
    assert files == sum(row[1] for row in rooms) > 0
    assert lines == sum(row[2] for row in rooms) > files
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", "HEAD"], capture_output=True, text=True
    ).stdout.split()
    assert files == sum(path.endswith(".py") for path in listed)
