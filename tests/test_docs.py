"""The documents: links lead somewhere, commands and files exist, generated tables are current."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.finding_tables import TABLES
from recipe.base.paths import CONFIGS
from recipe.maths.diagnostics import by_verdict, diagnose
from recipe.maths.rules import RULES

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]

SLOW = pytest.mark.slow
# A generated table: its mark, the document it is in, and the module that writes it.
GENERATED = [
    ("results", "README.md", "eval.runs"),
    ("published", "docs/paper.md", "eval.published"),
    ("reward", "docs/rewards.md", "benchmarks.reward_throughput"),
    ("agreement", "docs/rewards.md", "benchmarks.scorer_agreement"),
    ("probes", "docs/probes.md", "benchmarks.probes"),
    *((table, "docs/finding.md", "benchmarks.finding_tables") for table in TABLES),
    ("token_micro", "docs/methods.md", "benchmarks.token_micro"),
    ("advantages", "docs/methods.md", "benchmarks.advantages"),
    ("laboratory", "docs/study.md", "benchmarks.laboratory"),
    *(
        (f"frameworks_{table}", "docs/frameworks.md", "benchmarks.conformance.tables")
        for table in ("wanted", "measured", "run", "read")
    ),
    ("live_differences", "docs/finding.md", "benchmarks.live_study"),
    ("live_levels", "docs/finding.md", "benchmarks.live_study"),
    ("study_arms", "docs/finding.md", "eval.study"),
    ("study_means", "docs/finding.md", "eval.study"),
    ("study_predictions", "docs/finding.md", "eval.study"),
    ("coverage", "docs/statistics.md", "benchmarks.interval_coverage"),
    ("evaluation", "docs/evaluation.md", "eval.table"),
    ("kills", "docs/resume.md", "benchmarks.kill_campaign"),
    pytest.param("cost", "docs/cost.md", "benchmarks.step_cost", marks=SLOW),
    pytest.param("runs", "docs/paper.md", "recipe.cost", marks=SLOW),
    pytest.param("losses", "docs/losses.md", "recipe.composition", marks=SLOW),
]
MARK = re.compile(r"(?m)^<!-- (\w+):begin \(python -m ([^)]*)\) -->$")


def without_code(text: str) -> str:
    """Return a document without its code, in which a bracket is no link and `#` no heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```$", "", text))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as a forge makes them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text()))
    for link in links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        found = (path.parent / target).resolve() if target else path
        assert found.is_file(), link
        assert not anchor or anchor in anchors(found), link


def test_every_page_is_in_the_list_of_pages_and_in_the_menu_of_the_site():
    index, menu = (ROOT / "docs/index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f": {page.name}\n" in menu
        assert page.name == "index.md" or f"]({page.name})" in index


def test_every_file_of_the_table_of_changes_exists():
    text = (ROOT / "docs/find-your-way.md").read_text().partition("## Old runs")[0]
    named = re.findall(r"`((?:\w+/)+(?:[\w.]+)?)`", text)
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short():
    text = re.sub(r"<!--.*-->", "", (ROOT / "README.md").read_text())
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_names_a_module_or_target_that_exists(path):
    text = path.read_text()
    for module in set(re.findall(r"python -m (\w+(?:\.\w+)*)", text)):
        assert importlib.util.find_spec(module), module
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_make_demo_runs_the_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    [shown] = re.findall(r"^python -m recipe\.main (.*)$", readme, re.M)
    dry = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True)
    run = re.search(r"-m recipe\.main (.*)$", dry.stdout, re.M)[1]
    # The demo leaves the seed at its default, and trains however often it is asked to.
    shown = shown.replace("=R", "=balanced").removesuffix(" seed=S")
    assert run == f"{shown} trainer.resume_mode=disable"


@pytest.mark.parametrize(("mark", "document", "module"), GENERATED)
def test_a_generated_table_is_what_its_command_writes(
    mark, document, module, tmp_path, monkeypatch
):
    text = (ROOT / document).read_text()
    command = dict(MARK.findall(text))[mark]
    name, *arguments = shlex.split(command)
    assert (name, arguments[-2:]) == (module, ["--into", document])
    copy = tmp_path / "copy.md"
    copy.write_text(text)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *arguments[:-1], str(copy)])
    # A package is started by its __main__, as `python -m` does.
    is_package = importlib.util.find_spec(module).submodule_search_locations
    started = f"{module}.__main__" if is_package else module
    importlib.import_module(started).main()
    assert copy.read_text() == text


def test_every_mark_of_the_documents_is_in_the_table_above():
    found = {
        (mark, str(path.relative_to(ROOT)))
        for path in DOCUMENTS
        for mark in re.findall(r"<!-- (\w+):begin", path.read_text().replace("NAME:begin", ""))
    }
    listed = [getattr(entry, "values", entry) for entry in GENERATED]
    assert found == {(mark, document) for mark, document, _ in listed}


def test_make_results_runs_the_command_of_every_mark():
    dry = subprocess.run(["make", "-n", "results"], cwd=ROOT, capture_output=True, text=True)
    pattern = re.search(r"grep -hoP '(.*)' README.md docs/\*.md", dry.stdout)[1]
    lines = "".join(path.read_text() for path in DOCUMENTS).splitlines()
    # Python's re has no \K, so what stands before it becomes a group.
    before, _, after = pattern.partition(r"\K")
    run = [found[1] for line in lines if (found := re.search(f"{before}({after})", line))]
    assert len(run) == len(GENERATED)


@pytest.mark.parametrize("group", ["aggregation", "advantage", "objective", "preset"])
def test_every_choice_of_a_method_is_documented(group):
    text = (ROOT / "docs/methods.md").read_text() + (ROOT / "docs/idea.md").read_text()
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        if path.stem not in ("grpo", "none", "policy_gradient"):
            said = f"`{path.stem}`" if group == "aggregation" else f"`{group}={path.stem}`"
            assert f"{said} |" in text or f"{said}, `" in text, path.stem


def test_every_metric_of_a_batch_is_documented():
    text = (ROOT / "docs/metrics.md").read_text()
    length_N, advantage_N = torch.tensor([3, 5, 8, 12]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    group_N, correct_N = torch.zeros(4, dtype=torch.long), advantage_N > 0
    weights = {name: RULES[name](length_N, advantage_N, group_N) for name in RULES}
    metrics = diagnose(
        length_N, advantage_N, group_N, weights, "balanced", prefix_P=torch.tensor([2])
    ) | by_verdict(length_N, correct_N, advantage_N, length_N > 8)
    names = {key.split("/")[1] for key in metrics}
    assert len(names) > 25
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_pictures_of_results_are_the_committed_ones():
    results = ROOT / "benchmarks/results"
    for picture in (*results.glob("probes/*/*.png"), *results.glob("evaluation/*.png")):
        assert (ROOT / "docs/figures" / picture.name).read_bytes() == picture.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["idea", "step"])
def test_a_drawing_is_what_its_script_draws(name, tmp_path, monkeypatch):
    monkeypatch.setattr("docs.figures.saving.FOLDER", tmp_path)
    importlib.import_module(f"docs.figures.{name}").main()
    drawn = (tmp_path / f"{name}.svg").read_bytes()
    assert drawn == (ROOT / "docs/figures" / f"{name}.svg").read_bytes()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
