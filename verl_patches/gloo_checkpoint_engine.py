"""Send weights from the trainer to separate vLLM servers over gloo, for the mode separate_async.

None of verl's own engines (nccl, hccl, nixl, ...) runs on a CPU. This one is no patch:
`rollout.checkpoint_engine.custom_backend_module` names this module, and importing it registers
the backend `gloo`. Trainer rank 0 sends every tensor to all servers, one after the other.
"""

import datetime
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry
from verl.utils.net_utils import get_free_port

SENDER, OUTSIDE = 0, -1
TIMEOUT = datetime.timedelta(minutes=5)
Weights = Iterator[tuple[str, torch.Tensor]]


# verl declares `register` without @staticmethod, which type checkers refuse to call.
registry: Any = CheckpointEngineRegistry


@registry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """Make a process group for each synchronisation, beside torch's default one."""

    group: Any = None
    store: Any = None
    held: Any = None

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        """Take verl's arguments and ignore them: tensors are sent one by one, without buckets."""

    def prepare(self) -> tuple[str, int]:
        """Return an address of this process at which a store could listen.

        The port stays held until then, because another process could take it meanwhile.
        """
        host = ray.util.get_node_ip_address()
        port, self.held = get_free_port(host, with_alive_sock=True)
        return host, port

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[tuple[str, int]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Let trainer rank 0 send and all servers receive; other trainer ranks stay outside."""
        world_size = 1 + rollout_world_size

        def arguments(ranks: list[int]) -> dict[str, list[Any]]:
            same = {"world_size": world_size, "address": metadata[SENDER]}
            return {"rank": ranks} | {key: [value] * len(ranks) for key, value in same.items()}

        senders = [SENDER] + [OUTSIDE] * (actor_wg_world_size - 1)
        return arguments(senders), arguments(list(range(1, world_size)))

    def init_process_group(self, rank: int, world_size: int, address: tuple[str, int]) -> None:
        """Join the group, which meets at the sender's store."""
        self.rank = rank
        listener = self.held.detach() if rank == SENDER else None
        # Closes the socket of every other rank.
        self.held = None
        if rank == OUTSIDE:
            return
        host, port = address
        self.store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host,
            port,
            world_size,
            is_master=rank == SENDER,
            timeout=TIMEOUT,
            wait_for_workers=False,
            master_listen_fd=listener,
        )
        self.group = dist.ProcessGroupGloo(self.store, rank, world_size, TIMEOUT)

    def finalize(self) -> None:
        """Leave the group."""
        self.group = self.store = None

    async def send_weights(self, weights: Weights, global_steps: int | None = None) -> None:
        """Send every weight; ranks outside only help to gather it from the shards."""
        for name, weight in weights:
            if self.rank == SENDER:
                self._broadcast_object((name, weight.shape, weight.dtype))
                self._broadcast(weight.detach().contiguous())
        if self.rank == SENDER:
            self._broadcast_object(None)

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield the weights in the order in which they were sent."""
        while (found := self._broadcast_object()) is not None:
            name, shape, dtype = found
            yield name, self._broadcast(torch.empty(shape, dtype=dtype))

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = SENDER, 0
        self.group.broadcast([tensor], options).wait()
        return tensor

    def _broadcast_object(self, value: Any = None) -> Any:
        """Send an object, pickled, after its length; receivers call this without a value."""
        data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        length = self._broadcast(torch.tensor([len(data)]))
        if self.rank != SENDER:
            data = torch.empty(int(length), dtype=torch.uint8)
        return pickle.loads(self._broadcast(data).numpy().tobytes())
