"""Give each run its own TransferQueue, also if several run on one Ray cluster.

Upstream  TransferQueue 0.1.11, transfer_queue/interface.py: init, _init_from_existing
Why       the controller is an actor with a fixed name in a fixed namespace of the cluster, and
          whoever comes second joins it: two verl runs then train on each other's responses.
What      the name is looked up and given in the Ray job's own namespace.
Remove    once the namespace can be configured; here nothing is shared between jobs.
"""

from typing import Any

import wrapt

from verl_patches.guard import expect

MODULE = "transfer_queue.interface"


class JobsRay(wrapt.ObjectProxy):
    """The module `ray`, finding actors of this job only."""

    def get_actor(self, name: str, namespace: str) -> Any:
        """Return the actor of this name in the job's own namespace; `namespace` is ignored."""
        return self.__wrapped__.get_actor(name)


class JobsController(wrapt.ObjectProxy):
    """The controller's actor class, named in the job's own namespace."""

    def options(self, *, name: str, namespace: str) -> Any:
        """Call upstream without the namespace."""
        return self.__wrapped__.options(name=name)


def patch(module: Any) -> None:
    """Replace what the module imported by the proxies."""
    expect(module.init, package="TransferQueue", sha256="4a75f86c544e")
    expect(module._init_from_existing, package="TransferQueue", sha256="ed43e32c550d")
    module.ray = JobsRay(module.ray)
    module.TransferQueueController = JobsController(module.TransferQueueController)


def apply() -> None:
    """Patch TransferQueue when it is imported."""
    wrapt.register_post_import_hook(patch, MODULE)
