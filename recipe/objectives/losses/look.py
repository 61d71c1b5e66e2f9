"""Look at a whole mini-batch before its update, over all ranks."""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.workers.engine import BaseEngine
from verl.workers.utils.padding import no_padding_2_padding


def look(engine: BaseEngine, data: TensorDict, forward: dict[str, Any]) -> Tensor:
    """Return the log-probs of response tokens under the current parameters, (N, T), no gradient."""
    seen = data.copy()
    tu.assign_non_tensor(seen, calculate_entropy=False, compute_loss=False, **forward)
    with engine.eval_mode(disable_auto_offload=True):
        output = engine.infer_batch(seen, loss_function=None)
    return no_padding_2_padding(output["model_output"]["log_probs"], data)


def gathered(engine: BaseEngine, row_NC: Tensor) -> Tensor:
    """Return the rows of all ranks in their order. Every rank has the same number of rows."""
    if engine.get_data_parallel_size() == 1:
        return row_NC
    own = row_NC.to(get_device_id())
    every = [torch.empty_like(own) for _ in range(engine.get_data_parallel_size())]
    torch.distributed.all_gather(every, own, group=engine.get_data_parallel_group())
    return torch.cat(every)
