import hashlib
import inspect
from importlib.metadata import version

import pytest

from verl_patches.guard import UpstreamChanged, expect


def upstream() -> int:
    return 1


HASH = hashlib.sha256(inspect.getsource(upstream).encode()).hexdigest()[:12]


def test_the_code_a_patch_was_written_for_passes():
    expect(upstream, package="wrapt", release=version("wrapt"), sha256=HASH)


@pytest.mark.parametrize("change", [{"release": "0.0.1"}, {"sha256": "0" * 12}])
def test_another_version_or_source_is_refused_with_both_named(change):
    pins = {"package": "wrapt", "release": version("wrapt"), "sha256": HASH} | change
    with pytest.raises(UpstreamChanged, match="upstream is not the code") as error:
        expect(upstream, **pins)
    assert HASH in str(error.value)
    assert next(iter(change.values())) in str(error.value)
