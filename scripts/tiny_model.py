"""Make the small model of the CPU demo, and its task, from nothing.

    python -m scripts.tiny_model --task length_gap --out DIR

In under a minute on two cores, DIR then holds `model/` (a Qwen3 of 0.3 million parameters with a
tokenizer of its own), `train.parquet`, `val.parquet` and `card.json`, which says what was measured.

The model has two lessons, both through the chat template with the loss on the response alone:

1. to calculate, from short solutions without slips, until it gets most of them right;
2. to write as the task's worked solutions are written, checks and slips included.

About a quarter of its sampled responses are then right, and most others have a slip: enough for
reinforcement learning to start from, with room to rise.
"""

# transformers declares a union of everything for most of its values.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any, NamedTuple, TextIO

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from scripts import arithmetic
from scripts.tiny_tokenizer import END, MAX_POSITIONS, build_tokenizer

MAX_RESPONSE_TOKENS = 96
NO_LABEL = -100

# Both lessons: the learning rates at their peak.
MUON_LR, ADAMW_LR, LR_WARMUP_STEPS = 2e-2, 5e-3, 20
# Lesson 1 ends when this share of its test's responses is right.
CALCULATES = 0.75
CALCULATION = arithmetic.Task(checked=0.0, slip_rate=0.0, check_slip_rate=0.0)
CALCULATION_BATCH, STEPS_BETWEEN_TESTS, NUM_TESTED, MAX_CALCULATION_STEPS = 64, 20, 256, 600
# Lesson 2 has a fixed number of steps; after it this share should be right.
WRITING_BATCH, WRITING_STEPS = 32, 160
SHOULD_BE_CORRECT = (0.15, 0.40)
NUM_MEASURED, GROUP_SIZE = 128, 8

SECONDS_BETWEEN_LINES = 5.0
Report = Callable[[str], None]


class NotLearnedError(RuntimeError):
    """The warm start did not give the model that the demo needs."""


class Response(NamedTuple):
    """The length of a sampled response in tokens, the end of turn included, and its verdict."""

    length: int
    correct: bool


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights."""
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            initializer_range=0.05,
            **ends,
        )
    )
    # Without a temperature or the like, which vLLM would take over as its defaults.
    model.generation_config = GenerationConfig(**ends)
    return model


def build_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which takes half the steps of AdamW alone, and AdamW for the rest."""
    embeddings = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings]
    others = [embeddings, *(p for p in model.parameters() if p.ndim < 2)]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.98)),
    ]


def encode_prompt(tokenizer: PreTrainedTokenizerFast, expression: str) -> list[int]:
    """The tokens after which a response begins."""
    prompt = arithmetic.row(expression, index="")["prompt"]
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text)


def encode_solutions(
    tokenizer: PreTrainedTokenizerFast, solutions: Iterable[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Tokens and labels of pairs (expression, worked solution).

    Padding is on the right and has no label, so causal attention needs no mask.
    """
    tokens, labels = [], []
    for expression, solution in solutions:
        prompt = encode_prompt(tokenizer, expression)
        response = tokenizer.encode(solution + END)
        tokens.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([NO_LABEL] * len(prompt) + response))
    return (
        pad_sequence(tokens, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence(labels, batch_first=True, padding_value=NO_LABEL),
    )


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    expressions: list[str],
    group_size: int = 1,
) -> list[list[Response]]:
    """A group of responses to each expression, sampled at temperature 1."""
    prompts = [torch.tensor(encode_prompt(tokenizer, expression)) for expression in expressions]
    pad = tokenizer.pad_token_id
    tokens = pad_sequence(prompts, batch_first=True, padding_value=pad, padding_side="left")
    found = model.generate(
        input_ids=tokens,
        attention_mask=(tokens != pad).long(),
        do_sample=True,
        top_k=0,
        max_new_tokens=MAX_RESPONSE_TOKENS,
        num_return_sequences=group_size,
    )
    groups = found[:, tokens.shape[1] :].view(len(expressions), group_size, -1).tolist()
    return [
        [_judged(tokenizer, response, expression) for response in group]
        for group, expression in zip(groups, expressions, strict=True)
    ]


def _judged(tokenizer: PreTrainedTokenizerFast, tokens: list[int], expression: str) -> Response:
    end = tokenizer.eos_token_id
    length = tokens.index(end) + 1 if end in tokens else len(tokens)
    text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
    return Response(length, arithmetic.is_correct(text, expression))


def accuracy(groups: list[list[Response]]) -> float:
    """Share of right responses."""
    return fmean(response.correct for group in groups for response in group)


def length_statistics(groups: list[list[Response]]) -> dict[str, float]:
    """Mean length by verdict, and what tells lengths apart within a group.

    `length_ratio` is wrong over right, averaged over the groups that hold both;
    `length_cv` is standard deviation over mean, averaged over all groups.
    """
    correct = [[length for length, correct in group if correct] for group in groups]
    incorrect = [[length for length, correct in group if not correct] for group in groups]
    mixed = [pair for pair in zip(incorrect, correct, strict=True) if all(pair)]
    every = [[length for length, _ in group] for group in groups]
    return {
        "mean_length_correct": fmean(chain(*correct)),
        "mean_length_incorrect": fmean(chain(*incorrect)),
        "length_ratio": fmean(
            fmean(of_incorrect) / fmean(of_correct) for of_incorrect, of_correct in mixed
        ),
        "length_cv": fmean(pstdev(lengths) / fmean(lengths) for lengths in every),
    }


def warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    task: arithmetic.Task,
    expressions: list[str],
    random: Random,
    report: Report,
) -> None:
    """Give the model its two lessons.

    Raises:
        NotLearnedError: the first lesson does not come to its end.
    """
    optimizers = build_optimizers(model)

    def study(task: arithmetic.Task, num_solutions: int, lr_factor: float) -> None:
        drawn = random.choices(expressions, k=num_solutions)
        solutions = [(text, arithmetic.draw_solution(task, text, random)) for text in drawn]
        tokens, labels = encode_solutions(tokenizer, solutions)
        model(input_ids=tokens, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr_factor * optimizer.defaults["lr"]
            optimizer.step()
            optimizer.zero_grad()

    share = 0.0
    for step in range(1, MAX_CALCULATION_STEPS + 1):
        study(CALCULATION, CALCULATION_BATCH, min(1.0, step / LR_WARMUP_STEPS))
        report(f"lesson 1, calculating: step {step}, {share:.0%} of {CALCULATES:.0%} right")
        if step % STEPS_BETWEEN_TESTS == 0:
            share = accuracy(sample(model, tokenizer, random.sample(expressions, NUM_TESTED)))
            if share >= CALCULATES:
                break
    else:
        raise NotLearnedError(
            f"after {step} steps of lesson 1, {share:.0%} of the sampled responses are right; "
            f"{CALCULATES:.0%} should be, usually after 150 steps. Try another --seed."
        )
    for step in range(WRITING_STEPS):
        study(task, WRITING_BATCH, 1 - step / WRITING_STEPS)
        report(f"lesson 2, writing: step {step + 1} of {WRITING_STEPS}")


def make(task: str, seed: int, folder: Path, report: Report) -> dict[str, Any]:
    """Make the model and data of a task in an empty folder.

    Returns:
        The card.

    Raises:
        NotLearnedError: the model is not what the demo needs.
    """
    started = time.monotonic()
    random = Random(seed)
    torch.manual_seed(seed)
    splits = arithmetic.draw_expressions(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    warm_start(model, tokenizer, arithmetic.TASKS[task], splits["train"], random, report)
    report("measuring")
    groups = sample(model, tokenizer, random.sample(splits["train"], NUM_MEASURED), GROUP_SIZE)
    low, high = SHOULD_BE_CORRECT
    if not low <= accuracy(groups) <= high:
        raise NotLearnedError(
            f"after the warm start {accuracy(groups):.0%} of the sampled responses are right; "
            f"the demo needs {low:.0%} to {high:.0%}. Try another --seed."
        )
    for split, expressions in splits.items():
        arithmetic.write_parquet(split, expressions, folder / f"{split}.parquet")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    measured = {"accuracy": accuracy(groups), **length_statistics(groups)}
    card = {
        "task": task,
        "seed": seed,
        "num_parameters": model.num_parameters(),
        "seconds": round(time.monotonic() - started, 1),
        **{name: round(value, 4) for name, value in measured.items()},
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def reporter(stream: TextIO) -> Report:
    """Keeps one line of a terminal up to date, or writes a line now and then elsewhere."""
    last = -SECONDS_BETWEEN_LINES

    def report(text: str) -> None:
        nonlocal last
        if stream.isatty():
            print(f"\r\x1b[K{text}", end="", file=stream, flush=True)
        elif time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            print(text, file=stream, flush=True)
            last = time.monotonic()

    return report


def main() -> None:
    """Make the folder that the command line names, all at once or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", required=True, choices=sorted(arithmetic.TASKS))
    parser.add_argument("--out", required=True, type=Path, help="a folder that does not exist yet")
    parser.add_argument("--seed", default=0, type=int)
    options = parser.parse_args()
    out = options.out.absolute()
    if out.exists():
        parser.error(f"--out {options.out} exists already. Remove it, or name another folder.")

    # More threads do not help so small a model, and their number changes its last digits.
    torch.set_num_threads(min(2, len(os.sched_getaffinity(0))))
    disable_progress_bar()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        try:
            card = make(options.task, options.seed, folder, reporter(sys.stderr))
        except NotLearnedError as error:
            sys.exit(f"\n{error}")
        try:
            folder.rename(out)
        except OSError:
            # Another build of the same folder may have been first.
            if not (out / "card.json").exists():
                raise
    print(
        f"\n{options.out}: {card['num_parameters']:,} parameters, {card['accuracy']:.0%} of the "
        f"sampled responses right, made in {card['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
