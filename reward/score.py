"""Score one response: verl's `reward.custom_reward_function`, in training and validation.

`configs/base.yaml` gives verl this function, with the fields of `RewardSettings` as
`reward_kwargs`. verl then never chooses a grader by data source itself.
"""

import math
import threading
from functools import cache
from typing import Any, get_args

from reward.grader import Grader, Outcome, Row, Verdict
from reward.math.quantity import normalise
from reward.sources import RewardSettings

# verl gathers `pred` in a numpy array, where every row is as wide as the longest.
MAX_PRED_CHARS = 256
# The outcomes of a response that is not correct. Each has its own column.
COUNTED = tuple(outcome for outcome in get_args(Outcome) if outcome != "correct")

_LOCK = threading.Lock()
_made = cache(Grader)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Score a response on the published scale of its data source.

    This function raises no error: verl would log it, drop the response and train on the rest. If
    the machinery, the settings or the ground truth is at fault, `score` is NaN and `error` says
    why. The trainer stops at such a row.

    Args:
        data_source: a name that matches a pattern in `reward.sources`, or a key of `sources`.
        solution_str: the response, decoded.
        ground_truth: the correct answer; for code, the tests as JSON.
        extra_info: the row's other columns, for a scorer of your own.
        reward_router_address: passed by verl for reward models; not used.
        reward_model_tokenizer: passed by verl for reward models; not used.
        **settings: fields of `RewardSettings`.

    Returns:
        The columns that verl averages. All rows of a data source have the same ones:

        - `score`: the reward that trains.
        - `acc`: 1 for a correct response, else 0.
        - `incorrect`, `no_answer`, `parse_error`, `timeout`: 1 for this outcome, else 0.
        - `format`: 1 if the answer, correct or not, has the form that the data source asks for. A
          scorer of your own has this column only if it returns it.
        - `seconds`: the wall time of grading.
        - `pred`: the normalised answer, for verl's majority metrics.
        - `error`: why there is no verdict.
    """
    try:
        chosen = RewardSettings.of(settings)
        row = Row(solution_str, ground_truth, chosen.find(data_source), extra_info or {})
        return columns(_grader(chosen).grade(row))
    # A user's scorer may raise any error, and no error may become a score.
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return columns(Verdict("incorrect", math.nan, None, 0.0, message, in_form=False))


def _grader(settings: RewardSettings) -> Grader:
    """Return the grader for these settings; all threads of a process share it and its pool."""
    with _LOCK:
        return _made(settings)


def columns(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as the columns that verl keeps; see `compute_score`."""
    return {
        "score": verdict.score,
        "acc": float(verdict.outcome == "correct"),
        **{outcome: float(verdict.outcome == outcome) for outcome in COUNTED},
        **({} if verdict.in_form is None else {"format": float(verdict.in_form)}),
        "seconds": verdict.seconds,
        "pred": normalise(verdict.extracted or "")[:MAX_PRED_CHARS],
        "error": verdict.error,
        **verdict.extra,
    }
