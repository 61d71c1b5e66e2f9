"""Define how each data source asks for its answer and scores it, and the reward settings."""

import importlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from reward.math.extract import Form, Thinking

Scorer = Callable[..., float | dict[str, Any]]
Sandbox = Literal["namespaces", "landlock", "rlimits"]


class Source(NamedTuple):
    """Describe a data source: where its answers stand, and the score of one that is not correct.

    Attributes:
        forms: the places where an answer is looked for. The prompt asks for the first one. Empty
            for code.
        not_correct: the score of any other outcome. A correct response scores 1.
    """

    forms: tuple[Form, ...]
    not_correct: float = 0.0

    def score_of(self, outcome: str) -> float:
        """Return the score of an outcome such as "correct" or "timeout"."""
        return 1.0 if outcome == "correct" else self.not_correct


CODE = Source(())
# Benchmarks and rows without a data source: an answer may have any form.
ANY = Source(("boxed", "answer_line", "sentence"))
# Word problems, whose published solutions end in `#### 42`.
WORD_PROBLEMS = Source(("boxed", "answer_line", "hash_mark", "sentence"))
DAPO = Source(("answer_line", "boxed"), not_correct=-1.0)

# Keys are patterns of verl's `data_source`.
SOURCES = {
    "math_dapo": DAPO,  # arXiv:2503.14476
    "aime*": DAPO,  # the same scale as in DAPO's own evaluation file
    "polaris": Source(("boxed", "answer_line")),
    "math500": ANY,
    "HuggingFaceH4/MATH-500": ANY,
    "olympiadbench": ANY,
    "minerva": ANY,
    "amc23": ANY,
    "gsm8k": WORD_PROBLEMS,
    "openai/gsm8k": WORD_PROBLEMS,
    "svamp": WORD_PROBLEMS,
    "livecodebench*": CODE,
}


def _sorted_pairs(sources: object) -> object:
    """Return a mapping as sorted pairs, which can be hashed; leave other values to the check."""
    if isinstance(sources, Mapping):
        return tuple(sorted(sources.items(), key=str))
    return () if sources is None else sources


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class RewardSettings:
    """Hold the settings of a run under `reward.custom_reward_function.reward_kwargs`.

    Attributes:
        thinking: which text counts: see `reward.math.extract.extract`.
        asked_form_only: count an answer only in the form that the prompt asks for.
        apply_tolerance: accept a number within the row's published tolerance, as OlympiadBench has
            one.
        workers: processes for symbolic mathematics, and programs that run at the same time.
        deadline: seconds of CPU time for one symbolic comparison.
        memory_mib: address space of one process for symbolic mathematics, in MiB.
        sandbox: the weakest sandbox level that programs may run in.
        sources: pairs of a data source of your own and either a known data source or a scorer,
            written `package.module:function`. A scorer is called as
            `scorer(response, ground_truth, extra_info)`. It returns a number or a dict with the key
            `score`.
    """

    thinking: Thinking = "after"
    asked_form_only: bool = False
    apply_tolerance: bool = True
    workers: Annotated[int, Field(gt=0)] = 4
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    memory_mib: Annotated[int, Field(gt=0)] = 1024
    sandbox: Sandbox = "landlock"
    sources: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_sorted_pairs)] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RewardSettings":
        """Return the settings that a mapping of names to values gives; others keep their default.

        Raises:
            ValueError: a name is unknown or a value is not allowed. The message gives the name, the
                value that was found, and what is allowed.
        """
        if not isinstance(settings, Mapping):
            raise ValueError(f"the reward settings are {settings!r}; they must be a mapping")
        try:
            return cls(**{str(name): value for name, value in settings.items()})
        except ValidationError as error:
            name = str(error.errors(include_context=False)[0]["loc"][0])
            if name not in ALLOWED:
                raise ValueError(
                    f"reward setting {name!r} does not exist; there are {', '.join(ALLOWED)}"
                ) from None
            raise ValueError(f"{name} is {settings[name]!r}; it {ALLOWED[name]}") from None

    def find(self, name: str) -> Source | Scorer:
        """Return the source, or the scorer, of a data source.

        Raises:
            ValueError: the data source is unknown, or its scorer cannot be imported.
        """
        if not isinstance(name, str):
            raise ValueError(f"data_source is {name!r}; it must be a string")
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


# What an error says about each setting; it ends a sentence that begins "it ".
ALLOWED = {
    "thinking": f"may be {', '.join(get_args(Thinking))}",
    "asked_form_only": "must be true or false",
    "apply_tolerance": "must be true or false",
    "workers": "must be positive, a whole number",
    "deadline": "must be positive, a number of seconds",
    "memory_mib": "must be positive, a whole number of MiB",
    "sandbox": f"may be {', '.join(get_args(Sandbox))}",
    "sources": "must map each data source to a known one or to package.module:function",
}


def _imported(path: str) -> Scorer:
    module, _, name = path.partition(":")
    try:
        scorer = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"the scorer {path} cannot be imported: {error}. Write it as package.module:function "
            f"and put its package on PYTHONPATH."
        ) from error
    if not callable(scorer):
        raise ValueError(f"the scorer {path} is {scorer!r}, not a function. Name a function.")
    return cast("Scorer", scorer)
