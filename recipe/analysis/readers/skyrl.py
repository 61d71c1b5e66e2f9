"""Read the train batches and the evaluations that SkyRL dumps.

Read in skyrl 0.4.0. `trainer.dump_data_batch=true` writes
`dumped_data/global_step_STEP_training_input.pkl`: tensors with masks and advantages, and the rows
of each prompt. `trainer.dump_eval_results` writes texts and scores as
`dumped_evals/global_step_STEP_evals/DATA.jsonl`.
"""

import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipe.analysis.readers.tables import column_names, load_table
from recipe.analysis.rollouts import Collector, Options, Response, Rollouts
from recipe.analysis.token_counts import counted_lengths, text_lengths
from recipe.base.errors import UserError

STEP = re.compile(r"global_step_(\d+)_(?:training_input|evals)")
EVAL_COLUMNS = {"input_prompt", "output_response", "score"}
TOTALS = "aggregated_results.jsonl"


class SkyRl:
    """Read train batches, or evaluations if there are no train batches."""

    name = "skyrl"
    writes = "dumped_data/*.pkl (trainer.dump_data_batch=true) or dumped_evals in export_path"
    default_rule = "token_batch"

    def files(self, folder: Path) -> list[Path]:
        """Return the train batches, else the evaluations, in the order of steps."""
        found = [*folder.glob("**/global_step_*_training_input.pkl")]
        if not found:
            found = [*folder.glob("**/global_step_*_evals/*.jsonl"), *folder.glob("*.jsonl")]
            found = [path for path in found if path.name != TOTALS and STEP.search(str(path))]
        return sorted(found, key=lambda path: (step_of(path), path.name))

    def detects(self, path: Path) -> bool:
        """Return whether the name or the columns are SkyRL's."""
        if path.suffix == ".pkl":
            return bool(STEP.search(path.name))
        return path.suffix == ".jsonl" and EVAL_COLUMNS <= set(column_names(path))

    def read(self, files: Sequence[Path], options: Options) -> Rollouts:
        """Read train batches or evaluations.

        Raises:
            UserError: a file or a row cannot be used, or texts have no token counts.
        """
        collector = Collector(skip_bad=options.skip_bad)
        if files[0].suffix == ".pkl":
            lengths = counted_lengths(options, "from the loss mask")
            num_padding = 0
            for path in files:
                rows, padding = train_rows(path)
                collector.add(path, rows, lambda row: [row])
                num_padding += padding
            return collector.rollouts(lengths, "prompt of the batch", (), num_padding)
        lengths = text_lengths(column_names(files[0]), "output_response", options)
        for path in files:

            def convert(row: Mapping[str, Any], step: int = step_of(path)) -> Iterator[Response]:
                size, score = row[lengths.column], row["score"]
                yield Response(
                    step,
                    (row.get("data_source"), row["input_prompt"]),
                    size if lengths.of_texts else float(size),
                    # A score per token, or one.
                    float(sum(score) if isinstance(score, list) else score),
                )

            collector.add(path, load_table(path), convert)
        note = (
            "These are responses of evaluations, which were not trained on: the shares are those "
            "that a train batch of them would have had."
        )
        return collector.rollouts(lengths, "input_prompt", [note])


def step_of(path: Path) -> int:
    """Return the step in the name of the file or its folder, or 0 if it has none."""
    found = STEP.search(f"{path.parent.name}/{path.name}")
    return int(found[1]) if found else 0


def train_rows(path: Path) -> tuple[list[Response], int]:
    """Return the rows of a train batch, and how many rows are padding.

    Raises:
        UserError: the file is no train batch.
    """
    try:
        with path.open("rb") as file:
            state = Unpickler(file).load()
        mask_NT, advantage_NT = (
            tensor(state["batch_dict"][name]) for name in ("loss_mask", "advantages")
        )
        groups = state["metadata"]["policy_prompt_boundaries"]
    except (AttributeError, KeyError, TypeError, ValueError, EOFError, pickle.PickleError) as error:
        raise UserError(
            f"{path} is no train batch of SkyRL with loss_mask, advantages and the rows of each "
            f"prompt ({type(error).__name__}: {error}). Give files of "
            f"trainer.dump_data_batch=true, skyrl 0.4.0 or newer."
        ) from None
    tokens_N = mask_NT.sum(-1)
    mean_N = (advantage_NT * mask_NT).sum(-1) / np.maximum(tokens_N, 1)
    step = step_of(path)
    rows = [
        Response(step, group, int(tokens_N[row]), advantage=float(mean_N[row]))
        for group, (begin, end) in enumerate(groups)
        for row in range(begin, end)
    ]
    return rows, len(tokens_N) - len(rows)


class Unpickler(pickle.Unpickler):
    """Load a train batch as plain data: SkyRL's classes become what they hold, others are refused.

    A pickle of somebody else can run any code, so no function but those below is called.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function.

        Raises:
            pickle.UnpicklingError: it is unknown.
        """
        known = {
            "_rebuild_tensor_batch": lambda kind, state: state,
            "TrainingInputBatch": None,
            "TensorFormat": str,
            "device": str,
            "defaultdict": dict,
        }
        if module.split(".")[0] not in ("skyrl", "torch", "collections") or name not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not loaded")
        return known[name]


def tensor(field: Mapping[str, Any]) -> np.ndarray:
    """Return a serialized tensor as numbers."""
    if field["format"] == "torch":
        loaded = torch.load(io.BytesIO(field["data"]), map_location="cpu", weights_only=True)
        return loaded.double().numpy()
    return np.frombuffer(field["data"], dtype=field["dtype"]).reshape(field["shape"]).astype(float)
