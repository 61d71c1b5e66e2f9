import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import (
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from prepared import SUFFIX, dapo_row, prepare, read, refused, write_lines, write_parquet

from recipe.tasks.rows import canonical
from scripts import prepare_data
from scripts.data import hub, rows, selection

ROWS = [{"problem": f"P{n}", "answer": str(n), "difficulty": "1/8"} for n in range(5)]


@pytest.fixture
def source(tmp_path):
    return write_lines(tmp_path / "polaris.jsonl", ROWS)


@pytest.fixture(autouse=True)
def no_provenance(monkeypatch):
    monkeypatch.setattr(prepare_data, "provenance", lambda module: {"module": module})


def test_the_command_writes_three_files_and_prints_the_counts(tmp_path, source):
    out = tmp_path / "out"
    arguments = ["polaris", "--source", str(source), "--out", str(out)]
    command = [sys.executable, "-m", "scripts.prepare_data", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["polaris.dropped.jsonl", "polaris.manifest.json", "polaris.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    found = read(out, "polaris")
    assert found.prompts == [f"P{n}{SUFFIX}" for n in range(5)]
    manifest = found.manifest
    assert f"content sha256 {manifest['content_sha256']}" in done.stdout
    assert "| prompts written                                |     5 |" in done.stdout
    assert manifest["command"].startswith("python -m scripts.prepare_data polaris --source")
    assert manifest["versions"]["python"] and "commit" in manifest


def test_the_manifest_says_where_rows_come_from_and_hashes_what_was_read_and_written(
    tmp_path, source
):
    manifest = prepare(tmp_path, "polaris", source).manifest
    text = source.read_bytes()
    assert manifest["source"] == str(source) and manifest["revision"] is None
    assert manifest["files"] == [
        {
            "name": "polaris.jsonl",
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        }
    ]
    parquet = (tmp_path / "out/polaris.parquet").read_bytes()
    assert manifest["parquet_sha256"] == hashlib.sha256(parquet).hexdigest()
    assert list(manifest["counts"]) == list(selection.STAGES)
    assert manifest["template"]["name"] == "boxed"


def test_the_content_hash_is_that_of_the_rows_however_parquet_encodes_them(
    tmp_path, source, monkeypatch
):
    found = prepare(tmp_path, "polaris", source)
    content = found.manifest["content_sha256"]
    digest = hashlib.sha256(b"".join(map(canonical, found.rows)))
    assert digest.hexdigest() == content
    again = prepare(tmp_path / "b", "polaris", source).manifest
    assert again["content_sha256"] == content
    assert again["parquet_sha256"] == found.manifest["parquet_sha256"]
    monkeypatch.setattr(rows, "GROUP_ROWS", 2)
    apart = prepare(tmp_path / "c", "polaris", source).manifest
    assert apart["content_sha256"] == content
    assert apart["parquet_sha256"] != found.manifest["parquet_sha256"]
    assert pq.read_metadata(tmp_path / "c/out/polaris.parquet").num_row_groups == 3
    changed = write_lines(tmp_path / "d.jsonl", [*ROWS[:4], ROWS[4] | {"answer": "5"}])
    assert prepare(tmp_path / "d", "polaris", changed).manifest["content_sha256"] != content


def test_an_earlier_output_is_replaced_only_when_asked(tmp_path, source, capsys):
    prepare(tmp_path, "polaris", source)
    before = (tmp_path / "out/polaris.parquet").read_bytes()
    other = write_lines(tmp_path / "b.jsonl", ROWS[:2])
    message = refused(capsys, "polaris", "--source", other, "--out", tmp_path / "out")
    assert "exists" in message and "--overwrite" in message
    assert (tmp_path / "out/polaris.parquet").read_bytes() == before
    assert len(prepare(tmp_path, "polaris", other, "--overwrite").rows) == 2


@pytest.mark.parametrize("place", ["rows", "removing", "renaming"])
def test_a_full_disk_is_said_with_what_it_did_to_earlier_outputs(
    tmp_path, source, capsys, monkeypatch, place
):
    prepare(tmp_path, "polaris", source)
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in out.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_, **__):
        raise full

    if place == "rows":
        monkeypatch.setattr(rows.pq.ParquetWriter, "write_table", fail)
    else:  # at the very end
        monkeypatch.setattr(Path, {"removing": "unlink", "renaming": "replace"}[place], fail)
    message = refused(capsys, "polaris", "--source", source, "--out", out, "--overwrite")
    assert f"{out} cannot be written: No space left on device" in message
    if place == "renaming":
        del before[out / "polaris.manifest.json"]
    assert ("is as it was" in message) == (place != "renaming")
    assert ("may come from two calls" in message) == (place == "renaming")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("num_moved", range(4))
def test_a_parquet_beside_a_manifest_belongs_to_it_wherever_a_call_is_killed(
    tmp_path, source, monkeypatch, num_moved
):
    out = tmp_path / "out"
    prepare(tmp_path, "polaris", source)
    left = num_moved
    move = Path.replace

    def killed(path, target):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return move(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    other = write_lines(tmp_path / "b.jsonl", ROWS[:2])
    arguments = ["polaris", "--source", str(other), "--out", str(out), "--overwrite"]
    if num_moved < 3:
        with pytest.raises(KeyboardInterrupt):
            prepare_data.main(arguments)
        assert not (out / "polaris.manifest.json").exists()
    else:
        assert prepare_data.main(arguments) == 0
        found = read(out, "polaris")
        parquet = (out / "polaris.parquet").read_bytes()
        assert found.manifest["parquet_sha256"] == hashlib.sha256(parquet).hexdigest()


def test_copies_and_filtered_prompts_are_counted_not_listed_and_the_help_says_so(tmp_path, capsys):
    easy = {"problem": "easy", "answer": "1", "difficulty": "8/8"}
    source = write_lines(tmp_path / "a.jsonl", [*ROWS, ROWS[0], easy])
    found = prepare(tmp_path, "polaris", source, "--max-pass-rate", "0.5")
    assert (found.counts["rows_repeated"], found.counts["prompts_filtered"]) == (1, 1)
    assert found.dropped == []
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare_data.main(["--help"])
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    for said in (capsys.readouterr().out, page):
        assert "are counted in the manifest and not listed" in " ".join(said.split())


def test_a_folder_that_cannot_be_made_is_said(tmp_path, source, capsys):
    (tmp_path / "file").write_text("")
    message = refused(capsys, "polaris", "--source", source, "--out", tmp_path / "file")
    assert "cannot be written: File exists" in message


def test_nothing_is_written_if_no_row_is_left(tmp_path, source, capsys):
    arguments = ["--source", source, "--out", tmp_path / "out", "--max-pass-rate", "0"]
    assert "nothing is left to write: 5 rows read" in refused(capsys, "polaris", *arguments)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["polari"], "'polari' is unknown; known ones are dapo_17k, polaris"),
        (["polari"], "Did you mean polaris?"),
        (["polaris", "--source", "missing.jsonl"], "missing.jsonl is not a file or folder here"),
        (["polaris", "--source", "a/b/c"], "no OWNER/NAME of the hub"),
        (["polaris", "--source", __file__], "is no data file"),
        (["polaris", "--source", str(Path(__file__).parent)], "holds no data file"),
        (["polaris", "--language", "en"], "--language is for dapo_17k, not for polaris"),
        (["math500", "--max-pass-rate", "0.5"], "--max-pass-rate is for polaris"),
        (["polaris", "--max-pass-rate", "1.5"], "give a share from 0 to 1"),
        (["livecodebench", "--from-date", "August"], "--from-date is 'August'; give a day"),
        (
            ["livecodebench", "--from-date", "2024-02-01", "--to-date", "2024-01-01"],
            "2024-02-01 is after --to-date 2024-01-01",
        ),
        (["polaris", "--remove-overlap"], "--remove-overlap needs --against"),
        (["polaris", "--ngram", "0"], "--ngram is 0"),
        (["polaris", "--template", "code"], "Use dapo, boxed or none"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_paragraph(tmp_path, capsys, arguments, found):
    assert found in refused(capsys, *arguments, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.parquet", b"PAR1 cut off", "cannot be read"),
        ("a.json", b'[{"problem": ', "is no JSON"),
        ("a.jsonl", b"", "nothing is left to write"),
    ],
)
def test_a_broken_file_is_said(tmp_path, capsys, name, content, found):
    source = tmp_path / name
    source.write_bytes(content)
    assert found in refused(capsys, "polaris", "--source", source, "--out", tmp_path / "out")


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub with one data set, of which the branch main is at SHA; `calls` says what was asked."""
    calls = []
    folder = tmp_path / "snapshot"
    (folder / "data").mkdir(parents=True)
    write_lines(folder / "polaris-data-53K.jsonl", ROWS)
    write_lines(folder / "data/other.jsonl", ROWS[:1])
    names = ["README.md", "data/other.jsonl", "polaris-data-53K.jsonl"]

    def dataset_info(self, repo, revision):
        calls.append((repo, revision))
        return SimpleNamespace(sha=SHA, siblings=[SimpleNamespace(rfilename=n) for n in names])

    def snapshot_download(repo, repo_type, revision, allow_patterns):
        calls.append((repo, repo_type, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return calls


def test_a_branch_is_resolved_to_a_commit_which_is_fetched_and_recorded(tmp_path, online):
    files = ["--files", "polaris*.jsonl"]
    found = prepare(tmp_path, "polaris", "POLARIS-Project/Polaris-Dataset-53K", *files)
    repo = "POLARIS-Project/Polaris-Dataset-53K"
    assert online == [
        (repo, "main"),
        (repo, "dataset", SHA, ["polaris-data-53K.jsonl"]),
    ]
    manifest = found.manifest
    asked = (manifest["source"], manifest["revision_asked"], manifest["revision"])
    assert asked == (repo, "main", SHA)
    assert len(found.rows) == 5


def test_files_to_compare_with_are_read_before_a_download(tmp_path, online, capsys):
    arguments = ["polaris", "--out", tmp_path / "out", "--against", tmp_path / "no.parquet"]
    assert "is not a file" in refused(capsys, *arguments)
    assert online == []


def test_without_a_source_the_known_place_is_asked_at_the_given_revision(tmp_path, online):
    arguments = ["math500", "--out", str(tmp_path / "out"), "--revision", "v1"]
    assert prepare_data.main(arguments) == 0
    assert online[0] == ("HuggingFaceH4/MATH-500", "v1")


def test_a_data_set_without_fitting_files_is_refused_with_those_it_has(tmp_path, online, capsys):
    arguments = ["polaris", "--files", "*.parquet", "--out", tmp_path / "out"]
    message = refused(capsys, *arguments)
    assert "fits '*.parquet'" in message and "polaris-data-53K.jsonl" in message


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://hub"))


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (RepositoryNotFoundError("404", response=response(404)), "nor a data set that the hub"),
        (RevisionNotFoundError("404", response=response(404)), "has no revision 'main'"),
        (OfflineModeIsEnabled("offline mode is enabled"), "hub cannot be reached"),
        (httpx.ConnectError("Name or service not known"), "hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_an_error_of_the_hub_is_one_paragraph(tmp_path, capsys, monkeypatch, error, found):
    def dataset_info(*_, **__):
        raise error

    monkeypatch.setattr(hub.HfApi, "dataset_info", dataset_info)
    message = refused(capsys, "polaris", "--source", "owner/name", "--out", tmp_path / "out")
    assert found in message and "owner/name" in message


def test_the_hub_itself_is_not_asked_when_it_is_switched_off(tmp_path, capsys):
    message = refused(capsys, "polaris", "--out", tmp_path / "out")  # HF_HUB_OFFLINE=1, conftest
    assert "hub cannot be reached" in message and "--source PATH" in message


def test_rows_of_a_real_prompt_survive_the_way_through_parquet(tmp_path):
    problem = 'Tab\t, "quotes", \\frac{1}{2}, é, 数 and\nlines'
    found = prepare(
        tmp_path, "dapo_17k", write_parquet(tmp_path / "a.parquet", [dapo_row(problem)])
    )
    assert problem in found.prompts[0]
    assert json.loads(canonical(found.rows[0])) == found.rows[0]
