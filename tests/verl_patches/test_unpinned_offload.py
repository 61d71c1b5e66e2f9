from torch.distributed.fsdp import CPUOffloadPolicy
from verl.workers.engine.fsdp import transformer_impl


def test_the_policy_of_the_reference_model_does_not_pin_memory():
    policy = transformer_impl.CPUOffloadPolicy(pin_memory=True)
    assert isinstance(policy, CPUOffloadPolicy)
    assert not policy.pin_memory
