"""Each framework's released code, in its own environment, gives the committed weights."""

import json

import pytest

from benchmarks.conformance.__main__ import PEERS, RESULTS, measured
from benchmarks.conformance.match import runs_of


@pytest.mark.parametrize("peer", PEERS)
def test_a_framework_gives_the_committed_weights(peer):
    committed, again = json.loads((RESULTS / f"{peer}.json").read_text()), measured(peer)
    package = committed["package"]
    assert again["versions"][package] == committed["versions"][package]
    for old, new in zip(committed["settings"], again["settings"], strict=True):
        assert old["setting"] == new["setting"]
        for one, other in zip(runs_of(old), runs_of(new), strict=True):
            assert one[:2] == other[:2] and one.micro == other.micro
            assert other.weights == pytest.approx(one.weights, rel=1e-6)
