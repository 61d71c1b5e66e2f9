import socket

import torch.distributed
from verl.utils.distributed import initialize_global_process_group_ray


def test_a_process_group_starts_with_gloo(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("DIST_INIT_METHOD", f"tcp://127.0.0.1:{port}")
    initialize_global_process_group_ray(timeout_second=30)
    try:
        total = torch.ones(3)
        torch.distributed.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
        backend = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.name() == "gloo"
    finally:
        torch.distributed.destroy_process_group()
