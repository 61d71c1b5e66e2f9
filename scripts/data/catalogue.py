"""List the data sets: where they are published, their layouts, and how their prompts ask."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import NamedTuple

from recipe.base.errors import UserError
from scripts.data import livecodebench
from scripts.data.layouts import (
    OLYMPIAD,
    VERL,
    Layout,
    behind_mark,
    boxed_in,
    in_english,
    in_two_parts,
    plain,
    with_pass_rate,
)
from scripts.data.reading import Fields


class DataSet(NamedTuple):
    """Hold what is known of a data set.

    Attributes:
        data_source: its name in the rows, which `reward/sources.py` knows.
        hub: its home on the Hugging Face hub.
        files: pattern of its data files there.
        split: what the rows are for.
        template: how its prompts ask unless told otherwise, by name.
        layouts: what its rows may look like; the first one whose columns a row has reads it.
        filters: options that leave out prompts of this set.
        tests: of code, the ground truth from the fields of a row; raises ValueError.
    """

    data_source: str
    hub: str
    files: str
    split: str
    template: str
    layouts: tuple[Layout, ...]
    filters: tuple[str, ...] = ()
    tests: Callable[[Fields], str] | None = None

    def layout(self, fields: Fields) -> Layout | None:
        """Return the layout of a row, or None if it has none of the set's layouts."""
        return next((one for one in self.layouts if fields.keys() >= set(one.columns)), None)


# AIME with one row a problem, as a dozen copies on the hub have it.
_AIME = (
    VERL,
    plain("problem", "answer", question_id="id"),
    plain("Problem", "Answer", question_id="ID"),
    plain("question", "answer", question_id="id"),
)

_GSM8K = (VERL, behind_mark("question", "answer"), behind_mark("problem", "answer"))

DATA_SETS = {
    "dapo_17k": DataSet(
        "math_dapo",
        "BytedTsinghua-SIA/DAPO-Math-17k",
        "data/*.parquet",
        "train",
        "dapo",
        # The second is open-r1/DAPO-Math-17k-Processed.
        (plain("prompt", "solution"), VERL),
        ("language",),
    ),
    "polaris": DataSet(
        "polaris",
        "POLARIS-Project/Polaris-Dataset-53K",
        "*.jsonl",
        "train",
        "boxed",
        (with_pass_rate(plain("problem", "answer", difficulty="difficulty")), VERL),
        ("max_pass_rate",),
    ),
    "math500": DataSet(
        "math500",
        "HuggingFaceH4/MATH-500",
        "*.jsonl",
        "test",
        "boxed",
        (
            plain(
                "problem", "answer", question_id="unique_id", subject="subject", difficulty="level"
            ),
            VERL,
        ),
    ),
    "aime24": DataSet("aime24", "HuggingFaceH4/aime_2024", "data/*.parquet", "test", "dapo", _AIME),
    "aime25": DataSet("aime25", "math-ai/aime25", "*.jsonl", "test", "dapo", _AIME),
    "olympiadbench": DataSet(
        "olympiadbench",
        "Hothan/OlympiadBench",
        "*OE_TO_maths_en_COMP*.parquet",
        "test",
        "boxed",
        (in_english(OLYMPIAD), in_english(plain("question", "answer", question_id="id")), VERL),
    ),
    "minerva": DataSet(
        "minerva",
        "math-ai/minervamath",
        "*.jsonl",
        "test",
        "boxed",
        (
            plain("question", "answer"),
            plain("problem", "answer", question_id="idx", subject="type"),
            boxed_in("problem", "solution", question_id="idx", subject="type"),
            VERL,
        ),
    ),
    "amc23": DataSet("amc23", "math-ai/amc23", "*.jsonl", "test", "boxed", _AIME),
    "gsm8k": DataSet("gsm8k", "openai/gsm8k", "main/test-*.parquet", "test", "boxed", _GSM8K),
    "gsm8k_train": DataSet(
        "gsm8k", "openai/gsm8k", "main/train-*.parquet", "train", "boxed", _GSM8K
    ),
    "svamp": DataSet(
        "svamp",
        "ChilleD/SVAMP",
        "*.parquet",
        "train",
        "boxed",
        (in_two_parts("Body", "Question", "Answer", question_id="ID", subject="Type"), VERL),
    ),
    "livecodebench": DataSet(
        "livecodebench",
        "livecodebench/code_generation_lite",
        "test*.jsonl",
        "test",
        "code",
        (livecodebench.LAYOUT,),
        ("from_date", "to_date"),
        livecodebench.read_tests,
    ),
}


def find(name: str) -> DataSet:
    """Return the data set with this name.

    Raises:
        UserError: there is none.
    """
    if name not in DATA_SETS:
        nearest = get_close_matches(name, DATA_SETS, 1, 0.3)
        hint = f"Did you mean {nearest[0]}?" if nearest else "Choose one of them."
        raise UserError(
            f"data set {name!r} is unknown; known ones are {', '.join(DATA_SETS)}. {hint}"
        )
    return DATA_SETS[name]


def accepted(data_set: DataSet) -> str:
    """Return the columns of a set's layouts as text for a reader."""
    return ", or ".join(" + ".join(layout.columns) for layout in data_set.layouts)
