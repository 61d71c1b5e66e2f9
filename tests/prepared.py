"""What the tests of scripts.prepare_data share: small files in public schemas, and one call."""

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.tasks.templates import TEMPLATES
from scripts import prepare_data

SUFFIX = r" Let's think step by step and output the final answer within \boxed{}."
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'

# Exactly the columns and types of the published file.
DAPO_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"content": pa.string(), "role": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"ground_truth": pa.string(), "style": pa.string()}),
        "extra_info": pa.struct({"index": pa.string()}),
    }
)


def dapo_row(problem, answer="34", index="9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079", template="dapo"):
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": TEMPLATES[template].wrap(problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def write_parquet(path, rows, schema=None):
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def write_lines(path, rows):
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in rows))
    return path


def prepare(folder: Path, name: str, source, *options: str) -> SimpleNamespace:
    """Call the command in this process; what it wrote, once it went well."""
    out = folder / "out"
    arguments = [name, "--source", str(source), "--out", str(out), *map(str, options)]
    # Asking git and every package takes longer than the rest; a test of the command has it.
    with patch.object(prepare_data, "provenance", return_value={}):
        assert prepare_data.main(arguments) == 0
    return read(out, name)


def read(out: Path, name: str) -> SimpleNamespace:
    rows = pq.read_table(out / f"{name}.parquet").to_pylist()
    manifest = json.loads((out / f"{name}.manifest.json").read_text())
    dropped = (out / f"{name}.dropped.jsonl").read_text().splitlines()
    return SimpleNamespace(
        rows=rows,
        manifest=manifest,
        counts=manifest["counts"],
        dropped=[json.loads(line) for line in dropped],
        prompts=[row["prompt"][0]["content"] for row in rows],
        truths=[row["reward_model"]["ground_truth"] for row in rows],
        info=[row["extra_info"] for row in rows],
    )


def refused(capsys, *arguments) -> str:
    """The one paragraph with which the command refuses."""
    assert prepare_data.main([str(argument) for argument in arguments]) == 1
    lines = [x for x in capsys.readouterr().err.replace("\r", "\n").split("\n") if "error:" in x]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]
