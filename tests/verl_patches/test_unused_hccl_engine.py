import importlib
import sys

import pytest
import torch
import verl.checkpoint_engine
from verl.checkpoint_engine import CheckpointEngineRegistry

from verl_patches import unused_hccl_engine


def test_the_engine_is_not_imported_once_the_patch_is_applied(monkeypatch):
    monkeypatch.delitem(sys.modules, unused_hccl_engine.MODULE, raising=False)
    unused_hccl_engine.apply()
    with pytest.raises(ModuleNotFoundError, match="halted"):
        importlib.import_module(unused_hccl_engine.MODULE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the patch is for a CPU")
def test_verl_notes_the_engine_as_not_importable():
    assert isinstance(
        CheckpointEngineRegistry._import_errors["hccl_checkpoint_engine"], ImportError
    )
    assert verl.checkpoint_engine.HCCLCheckpointEngine is None
    assert sys.modules[unused_hccl_engine.MODULE] is None
