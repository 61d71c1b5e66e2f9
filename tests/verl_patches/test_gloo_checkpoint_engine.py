import socket

import pytest

from verl_patches.gloo_checkpoint_engine import SENDER, GlooCheckpointEngine


def test_the_port_of_the_store_is_held_from_its_choice_to_its_use():
    engine = GlooCheckpointEngine(bucket_size=1, is_master=True)
    for _ in range(3):
        host, port = engine.prepare()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((host, port))
        engine.init_process_group(SENDER, 1, (host, port))
        engine.store.set("a", "b")
        assert engine.store.get("a") == b"b"
        assert engine.held is None
        engine.finalize()
