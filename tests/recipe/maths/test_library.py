"""The library: its numbers, its messages, and the wheel that holds it."""

import doctest
import math
import re
import subprocess
import sys
import zipfile

import pytest
import torch

from recipe import maths
from recipe.base.paths import ROOT
from recipe.maths import library

GIVEN = [3, 1, 4, 2], [1.0, -1.0, 0.5, -0.5], ["a", "a", "b", "b"]


def test_the_examples_of_the_docstrings_hold():
    found = doctest.testmod(library)
    assert found.attempted >= 5 and found.failed == 0


@pytest.mark.parametrize("name", sorted(maths.RULES))
def test_weights_are_those_of_the_rule_in_any_form_of_input(name):
    lengths, advantages, groups = (torch.tensor(x) for x in (GIVEN[0], GIVEN[1], [0, 0, 1, 1]))
    expected = maths.RULES[name](lengths, advantages.double(), groups)
    assert maths.weights(name, *GIVEN).equal(expected)
    assert maths.weights(name, lengths, advantages, groups).equal(expected)


def test_a_response_without_tokens_does_not_count():
    weights = maths.weights("balanced", [2, 0, 4], [1.0, 1.0, -1.0], ["a", "a", "a"])
    # Two of three count, and the trainer divides by three.
    assert weights.tolist() == pytest.approx([1.5 / 2, 0, 1.5 / 4])
    assert maths.weights("token", [0, 0], [1.0, -1.0], ["a", "a"]).tolist() == [0, 0]
    assert maths.metrics("token", [0, 0], [1.0, -1.0], ["a", "a"]) == {}


def test_shares_are_those_of_the_formula():
    lengths, advantages, _ = GIVEN
    # constant: every token weighs the same.
    parts = [n * a for n, a in zip(lengths, advantages, strict=True)]
    positive = sum(part for part in parts if part > 0) / sum(abs(part) for part in parts)
    assert maths.shares(*GIVEN)["constant"].positive == pytest.approx(positive)
    # A response without tokens changes nothing.
    more = [*lengths, 0], [*advantages, 1.0], [*GIVEN[2], "b"]
    assert maths.shares(*more) == maths.shares(*GIVEN)
    for nothing in ([1, 2], [0, 0]):
        assert math.isnan(maths.shares(nothing, [0.0, 0.0], [0, 0])["token"].positive)


def test_metrics_use_the_settings_of_the_rule_that_trains():
    found = maths.metrics("constant", *GIVEN, limit=10.0)
    plain = maths.metrics("constant", *GIVEN)
    ratio = found["aggregation/pg_loss_expected"] / plain["aggregation/pg_loss_expected"]
    assert ratio == pytest.approx(0.1)
    assert "aggregation/objective_share_positive/balanced" in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "median"}, "known rules are balanced"),
        ({"limit": 3.0}, "has no setting limit; it has none"),
        ({"lengths": [1, 2]}, r"lengths has shape \(2,\)"),
        ({"lengths": [1, 2, 3, -1]}, "at least 0"),
        ({"advantages": [1.0, 2.0, 3.0, float("nan")]}, "finite"),
        ({"lengths": [], "advantages": [], "groups": []}, "one number per response"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    names = ("rule", "lengths", "advantages", "groups")
    given = dict(zip(names, ("balanced", *GIVEN), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        maths.weights(**given)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_library_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"balanced_aggregation"}
    assert "balanced_aggregation/py.typed" in names
    assert {n for n in names if "/integrations/" in n} == {
        f"balanced_aggregation/integrations/{n}.py" for n in ("__init__", "trl")
    }


def test_the_lines_of_the_page_run_from_the_wheel_without_verl_ray_or_hydra(wheel, tmp_path):
    page = (ROOT / "docs/library.md").read_text()
    lines = re.search(r"^```python\n(import balanced_aggregation.*?)^```", page, re.M | re.S)
    check = """
import sys
heavy = {"verl", "ray", "hydra", "vllm", "transformers", "recipe"} & sys.modules.keys()
assert not heavy, heavy
assert weights.tolist() == [1 / 135, 1 / 135, 1 / 380, 1 / 380]
# TransferQueue's wheel has a package `recipe`; both are there.
import recipe.simple_use_case
"""
    text = f"import sys; sys.path.insert(0, {str(wheel)!r})\n{lines[1]}\n{check}"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "positive advantage" in done.stdout
