"""The reward of one response, as verl's `reward.custom_reward_function` calls it.

`configs/base.yaml` points verl at it, for training and validation, with the fields of
`RewardSettings` as `reward_kwargs`; verl then never chooses a grader by data source itself.
"""

import math
import threading
from functools import cache
from typing import Any

from reward.grader import Grader, Row, Verdict
from reward.math.quantity import normalise
from reward.sources import RewardSettings

# verl gathers `pred` in a numpy array, in which every row is as wide as the longest.
MAX_PRED_CHARS = 256
# What a response that is not right may be, a column each.
COUNTED = ("incorrect", "no_answer", "parse_error", "timeout")


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

    Every row of a data source has the same keys, since verl averages them: `score` trains; `acc` is
    1 for a right response; `wrong`, `no_answer`, `parse_error` and `timeout` say what it was
    otherwise; `format` is 1 if the answer, right or not, stands in the form that the data source
    asks for (a scorer of one's own has it only if it returns it); `seconds` is what grading took;
    `pred` is the normalised answer that verl's majority metrics vote on; `error` says why there is
    no verdict.

    Never raises: verl would log it, drop the response and train on the rest. Where the machinery,
    the settings or the ground truth is at fault, `score` is NaN, which the trainer refuses
    with the error.

    Args:
        data_source: a name that matches a pattern in `reward.sources`, or is one of `sources`.
        solution_str: the response, decoded.
        ground_truth: the right answer; of code, its tests as JSON.
        extra_info: the row's other columns, for scorers of one's own.
        reward_router_address: verl's, for reward models; not used.
        reward_model_tokenizer: verl's, for reward models; not used.
        **settings: fields of `RewardSettings`.
    """
    try:
        chosen = RewardSettings.of(settings)
        row = Row(solution_str, ground_truth, chosen.find(data_source), extra_info or {})
        return columns(_grader(chosen).grade(row))
    # A scorer of one's own may raise anything, and none of it may become a score.
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return columns(Verdict("incorrect", math.nan, None, 0.0, said, in_form=False))


def _grader(settings: RewardSettings) -> Grader:
    """One grader of these settings, and so one pool, for all threads of a process."""
    with _LOCK:
        return _made(settings)


def columns(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the columns that verl keeps."""
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
