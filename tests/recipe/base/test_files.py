import hashlib

import pytest

from recipe.base.files import (
    read_lines,
    sha256_of,
    sha256_of_files,
    write_atomically,
    write_lines,
)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256_of(path) == hashlib.sha256(b"abc").hexdigest()


def test_the_hash_of_files_depends_on_their_order_and_on_where_each_ends(tmp_path):
    paths = [tmp_path / name for name in "abcd"]
    for path, text in zip(paths, (b"a", b"bc", b"ab", b"c"), strict=True):
        path.write_bytes(text)
    a, bc, ab, c = paths
    digests = b"".join(hashlib.sha256(text).digest() for text in (b"a", b"bc"))
    assert sha256_of_files([a, bc]) == hashlib.sha256(digests).hexdigest()
    assert len({sha256_of_files(files) for files in ([a, bc], [bc, a], [ab, c])}) == 3


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"


def test_a_last_record_that_was_cut_off_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, [{"x": 1}, {"x": 2}])
    assert read_lines(path) == [{"x": 1}, {"x": 2}]
    path.write_bytes(path.read_bytes()[:-3])
    assert read_lines(path) == [{"x": 1}]
