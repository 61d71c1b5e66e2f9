import pytest

from recipe.base.tables import between_marks, markdown_table


def test_text_is_aligned_left_and_numbers_are_aligned_right():
    assert markdown_table(("a", "b"), [("x", "12345"), ("long", "1")]) == [
        "| a    |     b |",
        "| ---- | ----: |",
        "| x    | 12345 |",
        "| long |     1 |",
    ]


def test_footnote_marks_and_bounds_still_align_a_column_of_numbers_right():
    rows = [("x", "-^a", "<0.001", ".5"), ("y", "1.5 (3)^a,b", "0.1", "-")]
    assert markdown_table(("", "a", "b", "c"), rows)[1] == "| --- | ----------: | -----: | --: |"


def test_only_what_stands_between_the_marks_is_replaced():
    document = "a\n<!-- t:begin (how) -->\nold\n\nold\n<!-- t:end -->\nb\n<!-- u:end -->"
    new = between_marks(document, "t", ["new", "lines"])
    assert new == document.replace("old\n\nold", "new\nlines")
    assert between_marks(new, "t", ["new", "lines"]) == new


@pytest.mark.parametrize("document", ["a", "<!-- t:end -->\n<!-- t:begin -->\n"])
def test_a_document_without_the_marks_is_refused(document):
    with pytest.raises(ValueError, match="no marks <!-- t:begin -->"):
        between_marks(document, "t", [])
