"""Find prompts that share text with problems of evaluation sets.

The rule. A problem, without template, is taken apart into words: runs of letters, digits and
underscores, without regard to case, and each Chinese character by itself; signs are no words. Two
problems overlap if the same n words follow one another in both (n is 13 unless told). A problem of
fewer than n words has no such run: it overlaps with one that is the same text as a whole, but for
case and spacing.

A run of words that stands in more than 10 different prompts of the training set is a common phrase
("where m and n are relatively prime positive integers ...") and no sign of overlap; so do
GPT-3 (arXiv:2005.14165, appendix C) and those who followed. Prompts that share nothing else with an
evaluation set are counted apart.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipe.base.errors import UserError
from recipe.tasks.templates import bare
from scripts.data.layouts import CHINESE, prompt_text
from scripts.data.reading import data_files, read_records

NUM_WORDS = 13
COMMON = 10

_WORD = re.compile(rf"{CHINESE}|(?:(?!{CHINESE})\w)+")


def runs(problem: str, num_words: int) -> set[str]:
    """Return all runs of so many words; for a shorter problem, a sign and its whole text."""
    folded = problem.casefold()
    words = _WORD.findall(folded)
    if len(words) < num_words:
        return {"= " + " ".join(folded.split())}
    return {" ".join(words[i : i + num_words]) for i in range(len(words) - num_words + 1)}


def read_problems(path: Path) -> set[str]:
    """Return the problems of an evaluation set in verl's schema, without their templates.

    Raises:
        UserError: it is no such file.
    """
    if not path.is_file():
        raise UserError(
            f"--against names {path}, which is not a file. Give evaluation files as this command "
            f"writes them, e.g. DIR/math500.parquet."
        )
    problems = set()
    for record in read_records(data_files(path), columns=["prompt"]):
        try:
            problems.add(bare(prompt_text((record.fields or {})["prompt"])))
        except (KeyError, ValueError):
            raise UserError(
                f"{path} (--against), row {record.index}, has no prompt in verl's schema. Give "
                f"evaluation files as this command writes them."
            ) from None
    return problems


class EvaluationSets:
    """Hold the word runs of evaluation sets, and where each occurs."""

    def __init__(self, problems: Mapping[str, Iterable[str]], num_words: int = NUM_WORDS) -> None:
        self.num_words = num_words
        self.names = list(problems)
        self._where: dict[str, set[str]] = defaultdict(set)
        for name, texts in problems.items():
            for text in texts:
                for run in runs(text, num_words):
                    self._where[run].add(name)

    def shared(self, problem: str) -> set[str]:
        """Return the runs of a problem that occur in any evaluation set."""
        return self._where.keys() & runs(problem, self.num_words) if self._where else set()

    def report(
        self, shared: Mapping[int, set[str]], num_prompts: int
    ) -> tuple[dict[int, dict[str, str]], dict[str, Any]]:
        """Report which prompts overlap with which sets.

        Args:
            shared: by number of the row, the runs that `shared` found.
            num_prompts: different prompts that were compared.

        Returns:
            By number of an overlapping row, an example of the shared runs for each evaluation set;
            and for each evaluation set the counts.
        """
        frequency = Counter(run for found in shared.values() for run in found)
        overlapping: dict[int, dict[str, str]] = {}
        common = Counter[str]()
        for index, found in shared.items():
            telling = sorted(run for run in found if frequency[run] <= COMMON)
            examples = {name: run for run in telling[::-1] for name in self._where[run]}
            common.update({name for run in found for name in self._where[run]} - examples.keys())
            if examples:
                overlapping[index] = examples
        sets = {}
        for name in self.names:
            rows = [index for index, examples in overlapping.items() if name in examples]
            sets[name] = {
                "overlapping": len(rows),
                "share": len(rows) / max(1, num_prompts),
                "common_phrases_only": common[name],
                "rows": {str(index): overlapping[index][name] for index in rows},
            }
        return overlapping, sets
