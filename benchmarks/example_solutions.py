r"""Make rows of OpenAI's example solutions to GSM8K, for `benchmarks.scorer_agreement`.

    python -m benchmarks.example_solutions example_model_solutions.jsonl --out gsm8k_solutions.jsonl
    python -m benchmarks.scorer_agreement measure --peer-python PEERS/bin/python \
        --rows gsm8k_solutions.jsonl --label is_correct

The file lies in grade_school_math/data of the GitHub repository openai/grade-school-math (MIT). It
holds the solutions of four models (arXiv:2110.14168) to the 1,319 test problems, with a verdict for
each. A solution ends with a line such as `A: 18`. The other scorers read the last box, so this line
becomes `A: \boxed{18}`; nothing else changes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.files import write_lines

ANSWER = re.compile(r"^A: (.*)$", re.MULTILINE)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each solution.

    Raises:
        UserError: the file is another one.
    """
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            problem = json.loads(line)
            [truth] = ANSWER.findall(problem.pop("ground_truth"))
            del problem["question"]
            for model, solution in problem.items():
                yield {
                    "category": model,
                    "data_source": "gsm8k",
                    "response": ANSWER.sub(r"A: \\boxed{\1}", solution["solution"]),
                    "ground_truth": truth,
                    "is_correct": solution["is_correct"],
                }
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}:{number} is no problem with solutions ({error}). Give "
                f"example_model_solutions.jsonl of openai/grade-school-math."
            ) from None


def main() -> None:
    """Write the rows."""
    parser = command_parser("benchmarks.example_solutions", __doc__)
    parser.add_argument("file", type=Path, help="example_model_solutions.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="the rows, JSON lines")
    given = parser.parse_args()
    with errors_reported(OSError):
        found = list(rows(given.file))
        write_lines(given.out, found)
    print(f"wrote {len(found):,} rows to {given.out}")


if __name__ == "__main__":
    main()
