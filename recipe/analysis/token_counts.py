"""Choose how to measure a response in a dump: by column, by tokenizer, or in characters."""

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.analysis.dumps import Lengths
from recipe.base.errors import UserError

KNOWN_COLUMNS = ("response_length", "response_len", "response_tokens", "num_response_tokens")


def choose_lengths(
    row: Mapping[str, Any], column: str | None = None, tokenizer: str | None = None
) -> Lengths:
    """Return the requested lengths, else a column named as lengths, else characters.

    Args:
        row: the first row of the dump.
        column: its column with token counts.
        tokenizer: name or folder of a tokenizer for the column `output`.

    Raises:
        UserError: the dump has no such column, or there is no such tokenizer.
    """
    if column is not None and column not in row:
        raise UserError(
            f"the dump has no column {column!r}; it has {', '.join(row)}. Name one of these with "
            f"--length-column, or a tokenizer with --tokenizer."
        )
    if tokenizer is not None:
        return tokenizer_lengths(tokenizer)
    for name in (column,) if column else KNOWN_COLUMNS:
        if name in row:
            return Lengths(name, f"tokens, from the column `{name}`")
    return Lengths(
        "output",
        "characters of the output",
        lambda texts: [max(1, len(text)) for text in texts],
        "Lengths are in characters, because the dump has no column of token counts. Rules count "
        "tokens: texts with other tokens per character shift every number below. Name the model's "
        "tokenizer with --tokenizer, or a column with --length-column.",
    )


def tokenizer_lengths(name: str) -> Lengths:
    """Count the output's tokens, at least 1: decoding dropped the end token, which was trained.

    Raises:
        UserError: there is no such tokenizer.
    """
    # Takes seconds to import, and most dumps are read without it.
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no tokenizer could be loaded from {name!r} ({str(error).splitlines()[0]}). Give a "
            f"folder with a tokenizer.json, or a name on the Hugging Face hub."
        ) from None

    def count(texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        ids = tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [max(1, len(row)) for row in ids]

    return Lengths("output", f"tokens of the output's text by the tokenizer `{name}`", count)
