import pytest

from tests.live.small_run import finish


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The outputs of a run that was never stopped."""
    outputs = tmp_path_factory.mktemp("whole")
    finish(outputs)
    return outputs
