"""The reward of one response, as verl's `reward.custom_reward_function` calls it.

Point verl at it with `reward.custom_reward_function.path=pkg://reward.score` and
`name=compute_score`.
"""

from fnmatch import fnmatchcase
from typing import NamedTuple

from reward.math_answer import Style, equal, extract, normalise

# verl gathers `pred` in a numpy array, in which every row is as wide as the longest.
MAX_PRED_CHARS = 256


class Source(NamedTuple):
    """How a data source asks for its answer, and its score of a response that is not right."""

    style: Style
    not_right: float


# By pattern of verl's `data_source`. A right response scores 1 everywhere.
SOURCES = {
    "math_dapo": Source("answer_line", not_right=-1.0),  # DAPO, arXiv:2503.14476
    "aime*": Source("answer_line", not_right=-1.0),
    "polaris": Source("boxed", not_right=0.0),
}


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, object] | None = None,
    **kwargs: object,
) -> dict[str, float | str]:
    """Score a response on the published scale of its data source.

    Every row has the same keys, since verl averages them per data source. They hold one of three
    outcomes: right (`acc` 1), wrong (both 0) and no answer (`no_answer` 1). `score` trains; `pred`
    is the normalised answer verl's majority metrics vote on, "" where there is none.

    Args:
        data_source: a name that matches a pattern in `SOURCES`.
        solution_str: the response, decoded.
        ground_truth: the right answer.
        extra_info: the row's other columns; not read.
        **kwargs: what verl adds for reward models; not read.

    Raises:
        ValueError: the data source is unknown, or the ground truth states nothing.
    """
    source = _source(data_source)
    answer = extract(solution_str, source.style) or ""
    is_right = equal(answer, ground_truth)
    return {
        "score": 1.0 if is_right else source.not_right,
        "acc": float(is_right),
        "no_answer": float(not answer),
        "pred": normalise(answer)[:MAX_PRED_CHARS],
    }


def _source(name: str) -> Source:
    for pattern, source in SOURCES.items():
        if fnmatchcase(name, pattern):
            return source
    raise ValueError(
        f"data_source is {name!r}; known ones are {', '.join(SOURCES)}. "
        f"Write one of them in the data's column `data_source`, or add this one in {__file__}."
    )
