"""How each data source asks for its answer, what a right one earns, and the settings of a run."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, cast

from reward.math.extract import Form, Thinking

Scorer = Callable[..., float | dict[str, Any]]


class Source(NamedTuple):
    """Where a data source has its answer, and its score of a response that is not right.

    `forms` are the places where an answer is looked for, the one that the prompt asks for first;
    they are empty for code. A right response scores 1.
    """

    forms: tuple[Form, ...]
    not_correct: float = 0.0

    def score_of(self, outcome: str) -> float:
        """The score of a verdict's outcome."""
        return 1.0 if outcome == "correct" else self.not_correct


CODE = Source(())
# Benchmarks and rows without a source: every template is understood.
ANY = Source(("boxed", "answer_line", "sentence"))
DAPO = Source(("answer_line", "boxed"), not_correct=-1.0)

# By pattern of verl's `data_source`.
SOURCES = {
    "math_dapo": DAPO,  # arXiv:2503.14476
    "aime*": DAPO,  # as DAPO's own evaluation file has it
    "polaris": Source(("boxed", "answer_line")),
    "math500": ANY,
    "HuggingFaceH4/MATH-500": ANY,
    "olympiadbench": ANY,
    "minerva": ANY,
    "livecodebench*": CODE,
}


@dataclass(frozen=True)
class RewardSettings:
    """The settings of `reward.custom_reward_function.reward_kwargs`.

    `sources` gives a data source of one's own the name of a known one, or of a scorer as
    `package.module:function`, which is called as `scorer(response, ground_truth, extra_info)` and
    returns a number or a dict with the key `score`.
    """

    thinking: Thinking = "after"
    asked_form_only: bool = False
    workers: int = 4
    deadline: float = 3.0
    memory_mib: int = 1024
    sandbox: Literal["namespaces", "landlock", "rlimits"] = "landlock"
    sources: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RewardSettings":
        """Settings by name.

        Raises:
            ValueError: a name or a value that does not exist.
        """
        known = {item.name: item for item in fields(cls)}
        allowed = {
            "thinking": ("after", "require", "ignore"),
            "sandbox": ("namespaces", "landlock", "rlimits"),
        }
        for name, value in settings.items():
            if name not in known:
                raise ValueError(
                    f"reward setting {name!r} does not exist; there are {', '.join(known)}"
                )
            if name in allowed and value not in allowed[name]:
                raise ValueError(f"{name} is {value!r}; it may be {', '.join(allowed[name])}")
            if name in ("workers", "deadline", "memory_mib") and not value > 0:
                raise ValueError(f"{name} is {value!r}; it must be positive")
        sources = tuple(sorted(dict(settings.get("sources") or {}).items()))
        return cls(**{**settings, "sources": sources})

    def find(self, name: str) -> Source | Scorer:
        """The source, or the scorer, of a data source.

        Raises:
            ValueError: the data source is unknown, or its scorer cannot be imported.
        """
        name = dict(self.sources).get(name, name)
        if ":" in name:
            return _imported(name)
        for pattern, source in SOURCES.items():
            if fnmatchcase(name, pattern):
                return source._replace(forms=source.forms[:1]) if self.asked_form_only else source
        raise ValueError(
            f"data_source is {name!r}; known ones are {', '.join(SOURCES)}. Give it the name of a "
            f"known one or a scorer of your own: +reward.custom_reward_function.reward_kwargs."
            f"sources.{name or 'NAME'}=polaris (or package.module:function)."
        )


def _imported(path: str) -> Scorer:
    module, _, name = path.partition(":")
    try:
        scorer = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the scorer {path} cannot be imported: {error}") from error
    if not callable(scorer):
        raise ValueError(f"the scorer {path} is {scorer!r}, not a function")
    return cast("Scorer", scorer)
