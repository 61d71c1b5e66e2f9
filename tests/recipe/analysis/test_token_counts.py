import pytest
from dumps import row

from recipe.analysis.token_counts import choose_lengths
from recipe.base.errors import UserError
from scripts.tiny_tokenizer import build_tokenizer


def test_a_column_with_a_telling_name_is_taken():
    assert choose_lengths(row(0)).column == "response_length"
    assert choose_lengths(row(0), column="score").column == "score"


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UserError, match="no column 'tokens'; it has input, output, gts, score"):
        choose_lengths(row(0), column="tokens")


def test_characters_come_with_a_warning():
    lengths = choose_lengths({"output": ""})
    assert list(lengths.of_texts(["", "héé"])) == [1, 3]
    assert "Lengths are in characters" in lengths.warning


def test_a_tokenizer_counts_the_tokens_of_the_outputs(tmp_path):
    build_tokenizer().save_pretrained(tmp_path)
    lengths = choose_lengths(row(0), tokenizer=str(tmp_path))
    assert (lengths.column, lengths.warning) == ("output", None)
    # A word, a sign and digits; nothing but the end token, which the text lacks.
    assert list(lengths.of_texts(["Answer: 123", ""])) == [5, 1]
    assert list(lengths.of_texts([])) == []


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer could be loaded from .*nowhere"):
        choose_lengths(row(0), tokenizer=str(tmp_path / "nowhere"))
