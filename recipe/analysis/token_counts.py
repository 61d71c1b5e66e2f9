"""Choose how to measure a response: by what the dump counts, by column, or by tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any

from recipe.analysis.rollouts import Lengths, Options
from recipe.base.errors import UserError

KNOWN_COLUMNS = ("response_length", "response_len", "response_tokens", "num_response_tokens")


def choose_lengths(
    row: Mapping[str, Any], column: str | None = None, tokenizer: str | None = None
) -> Lengths:
    """Return the lengths of a dump of verl: as asked for, or of a known column, or characters.

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


def text_lengths(columns: Sequence[str], text: str, options: Options) -> Lengths:
    """Return the lengths of a dump of texts: of the column or by the tokenizer that is named.

    Args:
        columns: of the dump.
        text: the column with the responses.
        options: what the user said.

    Raises:
        UserError: neither is named, or it is not there.
    """
    if options.length_column is not None:
        if options.length_column not in columns:
            raise UserError(
                f"the dump has no column {options.length_column!r}; it has {', '.join(columns)}. "
                f"Name one of these with --length-column, or a tokenizer with --tokenizer."
            )
        return Lengths(options.length_column, f"tokens, from the column `{options.length_column}`")
    if options.tokenizer is None:
        raise UserError(
            f"the dump has the texts of responses ({text}) and no token counts, but rules count "
            f"tokens. Name the model's tokenizer with --tokenizer FOLDER, or a column of token "
            f"counts with --length-column NAME. The dump has {', '.join(columns)}."
        )
    return tokenizer_lengths(options.tokenizer, text)


def counted_lengths(options: Options, where: str) -> Lengths:
    """Return the lengths of a dump that counts tokens itself.

    Raises:
        UserError: the user asks for another way to count.
    """
    for name, value in (
        ("--tokenizer", options.tokenizer),
        ("--length-column", options.length_column),
    ):
        if value is not None:
            raise UserError(
                f"{name} is {value}, but the dump tells which tokens were trained ({where}), and "
                f"these are counted. Leave {name} out."
            )
    return Lengths("", f"trained tokens, {where}")


def tokenizer_lengths(name: str, column: str = "output") -> Lengths:
    """Count the tokens of a text, at least 1: decoding dropped the end token, which was trained.

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

    return Lengths(column, f"tokens of the text in `{column}` by the tokenizer `{name}`", count)
