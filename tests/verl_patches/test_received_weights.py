import threading

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import (
    BucketedWeightReceiver,
    BucketedWeightSender,
)


def test_weights_sent_over_shared_memory_outlive_the_segment(tmp_path):
    """The real sender and receiver; without the patch closing the segment raises BufferError."""
    import asyncio

    sent = {f"layer.{i}": torch.randn(64, 64) for i in range(40)}
    handle = f"ipc://{tmp_path}/sync.sock"
    kept: dict[str, torch.Tensor] = {}
    failures = []

    def receive():
        try:
            receiver = BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
            receiver.receive_weights(lambda weights, is_last: kept.update(weights))
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=receive)
    thread.start()
    sender = BucketedWeightSender(handle, bucket_size_mb=0.25, use_shm=True)
    sender.bucket_size = 2**18
    asyncio.run(sender.async_send_weights(iter(sent.items())))
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert not failures
    assert kept.keys() == sent.keys()
    for name, weight in sent.items():
        assert torch.equal(kept[name], weight)
