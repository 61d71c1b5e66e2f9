r"""Ask other evaluation packages for their verdicts on responses and their statistics.

    python -m venv PEERS && PEERS/bin/pip install -r requirements/peer_scorers.txt
    PEERS/bin/python -P benchmarks/peer_scorers.py score ROWS.jsonl OUT.json
    PEERS/bin/python -P benchmarks/peer_scorers.py statistics LISTS.json OUT.json

Runs in the environment of those packages and imports nothing of this project. Rows have `id`,
`response` and `ground_truth`. Of each package those scorers are taken that read the answer in the
last `\boxed{}`, which is where the samples here have it:

- `lm_eval minerva_math, math_verify`: its `process_results` on the whole response.
- `lm_eval minerva_math, exact_match`: the same function looks for "Final Answer: The final answer
  is X. I hope it is correct." alone, so the last box is put into that sentence by its own
  `last_boxed_only_string` and `remove_boxed`, as it does with the reference solutions.
- `lm_eval aime, exact_match`: its `process_results` reads the last box. hendrycks_math compares by
  the same code, but takes what is between the first and the last `$`; so it is left out.
- `inspect_ai math`: takes the last box first. `match` looks at the last characters, where a box has
  a brace, and `model_graded_*` need a model; so they are left out.

Each row has a deadline kept from outside, in a process that is replaced when it overruns.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PACKAGES = (
    "lm_eval",
    "inspect_ai",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "antlr4-python3-runtime",
    "numpy",
)
# Longer than the packages' own limits (minerva_math: 5 s for each of four parts).
DEADLINE = 30.0
MEMORY = 4 << 30

Score = Callable[[str, str], bool]


def boxed(truth: str) -> str:
    """Return a ground truth as a reference solution writes it."""
    truth = truth.replace("\\fbox", "\\boxed")  # which remove_boxed does not know
    return truth if "\\boxed" in truth else f"\\boxed{{{truth}}}"


def minerva_math(metric: str) -> Score:
    """Return a metric of lm-eval's minerva_math, on references as its `process_docs` makes them."""
    from lm_eval.tasks.minerva_math import utils

    def restated(response: str) -> str:
        box = utils.last_boxed_only_string(response)
        if box is None or not box.startswith("\\boxed"):
            return response
        answer = utils.remove_boxed(box).replace("\n", " ")
        return f"Final Answer: The final answer is ${answer}$. I hope it is correct."

    def score(response: str, truth: str) -> bool:
        solution = boxed(truth)
        box = utils.remove_boxed(utils.last_boxed_only_string(solution))
        doc = {"solution": solution, "answer": utils.normalize_final_answer(box)}
        said = restated(response) if metric == "exact_match" else response
        return bool(utils.process_results(doc, [said])[metric])

    return score


def aime() -> Score:
    """Return the metric of lm-eval's aime tasks, with the ground truth as in their data."""
    from lm_eval.tasks.aime import utils

    def score(response: str, truth: str) -> bool:
        answer = utils.remove_boxed(utils.last_boxed_only_string(boxed(truth)))
        return bool(utils.process_results({"answer": answer}, [response])["exact_match"])

    return score


def inspect_math() -> Score:
    """Return the verdict of inspect_ai's `math()`; a response it leaves unscored is an error."""
    from inspect_ai.model import ModelName, ModelOutput
    from inspect_ai.scorer import CORRECT, INCORRECT, Target, math
    from inspect_ai.solver import TaskState

    scorer, runner = math(), asyncio.Runner()

    def score(response: str, truth: str) -> bool:
        output = ModelOutput.from_content("none/none", response)
        state = TaskState(ModelName("none/none"), 1, 1, "", [], output=output)
        found = runner.run(scorer(state, Target(truth)))
        if found.value not in (CORRECT, INCORRECT):
            raise ValueError(found.explanation)
        return found.value == CORRECT

    return score


SCORERS: dict[str, Callable[[], Score]] = {
    "lm_eval minerva_math, math_verify": lambda: minerva_math("math_verify"),
    "lm_eval minerva_math, exact_match": lambda: minerva_math("exact_match"),
    "lm_eval aime, exact_match": aime,
    "inspect_ai math": inspect_math,
}


def serve(name: str, pipe: Connection) -> None:
    """Serve verdicts in a process of its own: (response, ground truth) in, (verdict, error) out."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    sys.stdout = open(os.devnull, "w")
    score = SCORERS[name]()
    pipe.send("ready")
    while True:
        try:
            reply = (score(*pipe.recv()), None)
        except EOFError:
            os._exit(0)  # threads that were abandoned would keep it alive
        except Exception as error:  # whatever a package raises is its answer to this row
            reply = (None, f"{type(error).__name__}: {error}"[:300])
        pipe.send(reply)


class Peer:
    """Represent one scorer in its own process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: Any = None

    def ask(self, response: str, truth: str) -> tuple[bool | None, str | None]:
        """Return the verdict, or None and the reason why there is none."""
        if self.process is None:
            self._start()
        started = time.perf_counter()
        self.pipe.send((response, truth))
        if not self.pipe.poll(DEADLINE):
            self.stop()
            return None, f"no verdict after {DEADLINE:g} s"
        try:
            reply = self.pipe.recv()
        except EOFError:
            self.stop()
            return None, "the process ended"
        # What timed out within a package may run on in a thread and slow the rows after it.
        if time.perf_counter() - started > 1:
            self.stop()
        return reply

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


def score_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, by scorer and row id, the verdict (null if there is none), and the errors."""
    found: dict[str, Any] = {}
    for name in SCORERS:
        peer, started = Peer(name), time.perf_counter()
        replies = {row["id"]: peer.ask(row["response"], row["ground_truth"]) for row in rows}
        peer.stop()
        found[name] = {
            "verdicts": {row: verdict for row, (verdict, _) in replies.items()},
            "errors": {row: error for row, (_, error) in replies.items() if error},
        }
        print(f"{name}: {len(rows)} rows in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return found


def statistics_of(problems: list[list[int]], ks: list[int]) -> dict[str, Any]:
    """Return inspect_ai's statistics of samples that are 0 or 1, one list for each problem.

    `stderr` is over the problems' means, as its evaluations with epochs report; the clustered one
    is over all samples, with the problem as the cluster.
    """
    from inspect_ai.scorer import SampleScore, Score, mean, mean_score, pass_at, stderr

    def reduced(reducer: Any) -> list[SampleScore]:
        return [
            SampleScore(score=reducer([Score(value=value) for value in values]))
            for values in problems
        ]

    samples = [
        SampleScore(score=Score(value=value), sample_metadata={"problem": number})
        for number, values in enumerate(problems)
        for value in values
    ]
    return {
        "mean": float(mean()(reduced(mean_score()))),
        "pass_at": {str(k): float(mean()(reduced(pass_at(k)))) for k in ks},
        "stderr": float(stderr()(reduced(mean_score()))),
        "stderr_clustered": float(stderr(cluster="problem")(samples)),
    }


def main() -> None:
    """Read, score or count, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["score", "statistics"])
    parser.add_argument(
        "given", type=Path, help="rows, or {problems: [[0, 1, ...], ...], k: [...]}"
    )
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with given.given.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    if given.part == "score":
        found = {"scorers": score_rows(lines)}
    else:
        [lists] = lines
        found = {"statistics": statistics_of(lists["problems"], lists["k"])}
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    given.out.write_text(json.dumps({**found, "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
