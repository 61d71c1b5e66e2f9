r"""Make a public data set into verl's schema, and say what was done to it.

    python -m scripts.prepare_data dapo_17k --out data
    python -m scripts.prepare_data polaris --source polaris-data-53K.jsonl --out data \
        --max-pass-rate 0.9 --against data/math500.parquet data/aime24.parquet --remove-overlap
    python -m scripts.prepare_data livecodebench --out data --from-date 2024-08-01

It writes NAME.parquet; NAME.manifest.json, with where the rows come from, counts at every stage
and hashes; and NAME.dropped.jsonl, with each row that was dropped and why. Further copies of a
prompt, and prompts left out by --language, --max-pass-rate or the dates, are counted in the
manifest and not listed. The manifest comes last: if it exists, all three are complete and from one
call. The same input and options give the same rows and the same content hash.
"""

import argparse
import json
import sys
from contextlib import closing
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recipe.base.command import command_parser
from recipe.base.errors import UserError
from recipe.base.files import sha256_of
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.tasks.templates import TEMPLATES
from scripts.data import hub
from scripts.data.catalogue import DATA_SETS, DataSet, find
from scripts.data.overlap import COMMON, NUM_WORDS, EvaluationSets, read_problems
from scripts.data.reading import KINDS, data_files, read_records
from scripts.data.rows import write_parquet
from scripts.data.selection import STAGES, Filters, Prompt, Selection

OUTPUTS = ("parquet", "dropped.jsonl", "manifest.json")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    command = command_parser("scripts.prepare_data", __doc__)
    add = command.add_argument
    add("name", metavar="NAME", help=", ".join(DATA_SETS))
    add("--out", type=Path, required=True, metavar="DIR", help="where the files go")
    add("--source", help="a file, a folder or OWNER/NAME on the hub (default: where it is known)")
    add("--revision", default="main", help="branch, tag or commit on the hub (default: main)")
    add("--files", metavar="PATTERN", help="which files of a folder or of the hub's data set")
    add("--template", choices=TEMPLATES, help="how prompts ask (default: as the set's own do)")
    add("--language", choices=("all", "en", "zh"), default="all", help="dapo_17k: of the prompts")
    add("--max-pass-rate", type=float, metavar="X", help="polaris: leave out easier prompts")
    add("--from-date", metavar="YYYY-MM-DD", help="livecodebench: contests from this day on")
    add("--to-date", metavar="YYYY-MM-DD", help="livecodebench: contests up to this day")
    add("--against", nargs="+", default=[], type=Path, metavar="FILE", help="evaluation files")
    add("--ngram", type=int, default=NUM_WORDS, help="words in a row that are an overlap")
    add("--remove-overlap", action="store_true", help="leave out what overlaps")
    add("--overwrite", action="store_true", help="replace files of an earlier call")
    return command


def read_filters(options: argparse.Namespace, data_set: DataSet) -> Filters:
    """Return the filters from the options.

    Raises:
        UserError: one does not go with the data set, or has no meaning.
    """
    given = {name: getattr(options, name) for name in Filters.__dataclass_fields__}
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value not in (None, "all") and name not in data_set.filters:
            sets = [key for key, one in DATA_SETS.items() if name in one.filters]
            raise UserError(f"{flag} is for {', '.join(sets)}, not for {options.name}. Remove it.")
        if name.endswith("_date") and value is not None:
            try:
                date.fromisoformat(value)
            except ValueError:
                raise UserError(f"{flag} is {value!r}; give a day such as 2024-08-01.") from None
    rate = options.max_pass_rate
    if rate is not None and not 0 <= rate <= 1:
        raise UserError(f"--max-pass-rate is {rate}; give a share from 0 to 1, such as 0.9.")
    if options.from_date and options.to_date and options.from_date > options.to_date:
        raise UserError(
            f"--from-date {options.from_date} is after --to-date {options.to_date}, so no contest "
            f"is left. Exchange them."
        )
    return Filters(**given)


def check(options: argparse.Namespace) -> None:
    """Check everything that needs no data.

    Raises:
        UserError: options that do not go together, or an earlier output that would be replaced.
    """
    if options.ngram < 1:
        raise UserError(f"--ngram is {options.ngram}; give 1 or more words, usually {NUM_WORDS}.")
    if options.remove_overlap and not options.against:
        raise UserError("--remove-overlap needs --against FILE..., the files to compare with.")
    is_code = DATA_SETS[options.name].tests is not None
    if options.template in (("dapo", "boxed") if is_code else ("code",)):
        raise UserError(
            f"--template {options.template} asks for what the grader of {options.name} does not "
            f"look for. Use {'code or none' if is_code else 'dapo, boxed or none'}."
        )
    found = [path for path in output_paths(options.out, options.name) if path.exists()]
    if found and not options.overwrite:
        raise UserError(
            f"{', '.join(map(str, found))} exists, and may be what a run was trained on. Give "
            f"another --out, or --overwrite to replace it."
        )


def output_paths(folder: Path, name: str) -> list[Path]:
    """Return the files that a call writes."""
    return [folder / f"{name}.{kind}" for kind in OUTPUTS]


def find_source(
    options: argparse.Namespace, data_set: DataSet
) -> tuple[dict[str, Any], list[Path]]:
    """Return the manifest's entry for the input, and its files, downloaded if necessary.

    Raises:
        UserError: there is no such file, folder or data set.
    """
    source = options.source or data_set.hub
    path = Path(source).expanduser()
    if options.source and path.exists():
        files = data_files(path, options.files or "*")
        found = {"source": source, "revision": None}
    elif hub.HUB_ID.fullmatch(source) and not source.endswith(KINDS):
        pattern = options.files or (data_set.files if source == data_set.hub else "*")
        commit, files = hub.download(source, options.revision, pattern)
        found = {"source": source, "revision_asked": options.revision, "revision": commit}
    else:
        raise UserError(
            f"--source {source} is not a file or folder here, and no OWNER/NAME of the hub. Check "
            f"the path, or leave it out for {data_set.hub}."
        )
    try:
        inputs = [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file in files
        ]
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error}. Check its permissions.") from None
    return {**found, "files": inputs}, files


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """Write the three files; returns the manifest.

    Raises:
        UserError: what a person can repair.
    """
    data_set = find(options.name)
    check(options)
    filters = read_filters(options, data_set)
    template = options.template or data_set.template
    # Before the download, which may take long.
    problems = {str(path): read_problems(path) for path in options.against}
    evaluation = EvaluationSets(problems, options.ngram)
    source, files = find_source(options, data_set)
    made = provenance("scripts.prepare_data")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{options.name}.", dir=options.out) as folder:
            parquet, dropped, manifest = output_paths(Path(folder), options.name)
            with dropped.open("w") as drops, (Path(folder) / "rows").open("w+b") as rows:
                job = Selection(data_set, TEMPLATES[template], filters, evaluation, drops)
                with closing(read_records(files)) as records:
                    prompts = job.gather(records, rows)
                overlapping, overlap = compare(evaluation, prompts)
                rows.seek(0)
                remove = overlapping if options.remove_overlap else {}
                written, content_hash = write_parquet(job.choose(prompts, rows, remove), parquet)
            if not written:
                counts = ", ".join(f"{job.counts[key]} {STAGES[key]}" for key in STAGES)
                raise UserError(
                    f"nothing is left to write: {counts}. Look at the options, or whether --source "
                    f"is {options.name}; nothing was written."
                )
            record = {
                "name": options.name,
                "data_source": data_set.data_source,
                **source,
                "template": {"name": template, "version": TEMPLATES[template].version},
                "options": recorded(options),
                "counts": {key: job.counts[key] for key in STAGES},
                "notes": notes(job),
                "overlap": overlap,
                "content_sha256": content_hash,
                "parquet_sha256": sha256_of(parquet),
                **made,
            }
            manifest.write_text(json.dumps(record, indent=2) + "\n")
            put_in_place([parquet, dropped, manifest], options.out)
    except OSError as error:
        raise UserError(
            f"{options.out} cannot be written: {error.strerror or error}. What it held before is "
            f"as it was. Free some space or give another --out."
        ) from None
    return record


def put_in_place(made: list[Path], out: Path) -> None:
    """Move the files of a call into place, the manifest last; replace those of an earlier call.

    Raises:
        OSError: nothing was changed.
        UserError: something may have been.
    """
    # No manifest stands there meanwhile, so after a kill a parquet beside one belongs to it.
    (out / made[-1].name).unlink(missing_ok=True)
    try:
        for path in made:
            path.replace(out / path.name)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written: {error.strerror or error}. An earlier manifest there was "
            f"removed. Files without a manifest may come from two calls. Free some space, then "
            f"call again with --overwrite."
        ) from None


def compare(
    evaluation: EvaluationSets, prompts: list[Prompt]
) -> tuple[dict[int, dict[str, str]], dict[str, Any]]:
    """Return which prompts overlap with which evaluation sets, and the counts."""
    compared = [prompt for prompt in prompts if not (prompt.is_too_easy or prompt.has_conflict)]
    shared = {prompt.index: prompt.shared for prompt in compared if prompt.shared}
    return evaluation.report(shared, len(compared))


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that change the contents of the rows."""
    kept = ("files", "language", "max_pass_rate", "from_date", "to_date", "ngram", "remove_overlap")
    return {name: getattr(options, name) for name in kept}


def notes(job: Selection) -> list[str]:
    """Return what a reader should know of the rows."""
    if not job.num_tolerances:
        return []
    return [
        f"{job.num_tolerances} rows allow their answer a tolerance (extra_info.tolerance). The "
        f"grader applies it unless apply_tolerance=false."
    ]


def report(record: dict[str, Any]) -> list[str]:
    """Return the counts of a manifest as tables."""
    lines = markdown_table(
        ("stage", "count"), [(STAGES[key], f"{n:,}") for key, n in record["counts"].items()]
    )
    if record["overlap"]:
        head = ("compared with", "overlapping", "share", f"only phrases of over {COMMON} prompts")
        cells = [
            (
                name,
                str(found["overlapping"]),
                f"{found['share']:.2%}",
                str(found["common_phrases_only"]),
            )
            for name, found in record["overlap"].items()
        ]
        lines += ["", *markdown_table(head, cells)]
    return lines + record["notes"]


def main(arguments: list[str] | None = None) -> int:
    """Prepare the data and print the counts; return 0 on success."""
    options = parser().parse_args(arguments)
    try:
        record = prepare(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(report(record)))
    print(f"content sha256 {record['content_sha256']}")
    print(", ".join(map(str, output_paths(options.out, options.name))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
