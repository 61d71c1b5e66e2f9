import subprocess
import sys

import pytest
import transfer_queue.interface as interface

from recipe.run.processes import temporary_folder
from verl_patches.own_transfer_queue import JobsController, JobsRay

# Two Ray jobs on one cluster, each asking whether a controller is there and making one if not.
JOB = """
import sys
import verl_patches, ray, transfer_queue as tq
from omegaconf import OmegaConf
ray.init(address=sys.argv[1], log_to_driver=False)
conf = {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}
tq.init(OmegaConf.create(conf))
print("JOINED", tq.kv_list("train").get("train", {}), flush=True)
from tensordict import TensorDict
import torch
fields = TensorDict({"x": torch.ones(1)}, 1)
tq.kv_batch_put(keys=[sys.argv[2]], partition_id="train", fields=fields)
print("HAS", sorted(tq.kv_list("train")["train"]), flush=True)
sys.stdin.readline()
"""


def test_the_module_finds_and_names_the_controller_in_the_jobs_namespace():
    assert isinstance(interface.ray, JobsRay)
    assert isinstance(interface.TransferQueueController, JobsController)
    assert interface.ray.get is not None


@pytest.mark.slow
def test_two_jobs_on_one_cluster_have_a_queue_each():
    import ray

    jobs = []
    with temporary_folder() as folder:
        place = str(folder / "ray")
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=place)
        try:
            address = ray.get_runtime_context().gcs_address
            for name in ("one", "other"):
                job = subprocess.Popen(
                    [sys.executable, "-c", JOB, address, name],
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                jobs.append(job)
                said = [next(job.stdout).strip() for _ in range(2)]
                assert said == ["JOINED {}", f"HAS ['{name}']"]
        finally:
            for job in jobs:
                job.kill()
                job.wait()
            ray.shutdown()
