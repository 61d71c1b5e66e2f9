"""The requirement files agree with each other."""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recipe.base.paths import ROOT


def lines(name: str) -> list[str]:
    text = (ROOT / "requirements" / name).read_text()
    return [line for line in text.splitlines() if line and not line.strip().startswith("#")]


def versions(name: str) -> dict[str, str]:
    found = [Requirement(line) for line in lines(name)]
    return {canonicalize_name(one.name): str(one.specifier) for one in found}


def test_the_lock_has_an_exact_version_of_each_package_and_nothing_else():
    found = lines("gpu.lock.txt")
    assert len(found) > 200
    assert [line for line in found if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", line)] == []
    assert len(versions("gpu.lock.txt")) == len(found)


def test_the_lock_has_what_gpu_txt_names():
    assert versions("gpu.txt").items() <= versions("gpu.lock.txt").items()


def test_the_lock_and_the_tools_installed_beside_it_have_one_version_of_each_package():
    locked, tools = versions("gpu.lock.txt"), versions("dev.txt")
    both = locked.keys() & tools.keys()
    assert "pytest" in both
    assert {name: locked[name] for name in both} == {name: tools[name] for name in both}
