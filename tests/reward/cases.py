"""Load the cases of the math grader: rows with a category, an expected outcome and a source."""

import json
from pathlib import Path

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "cases.jsonl").read_text(encoding="utf-8").splitlines()
]
