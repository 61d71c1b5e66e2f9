"""Actor workers on verl's FSDP2 engine, in Ray, and a batch for their gradients."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from gradient_worker import GradientWorker
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from transformers import AutoModelForCausalLM
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.utils import tensordict_utils as tu

import recipe.main  # noqa: F401  (registers the config resolvers)
from recipe.maths.rules import over_all_rows, with_limit
from recipe.objectives.losses.weightable import default_config
from recipe.objectives.losses.weighted import (
    SLOPE_COLUMN,
    WEIGHT_COLUMN,
    weighted_ppo_loss,
)
from recipe.run.cluster import session
from recipe.run.processes import Watch
from recipe.tasks import embedded

# Groups of 1 and of 2 ranks stand side by side, so on GPUs they take three, and FSDP1 a fourth.
CPU = not torch.cuda.is_available()
RANKS = [1, 2] if CPU or torch.cuda.device_count() > 3 else [1]
FSDP1 = not CPU and torch.cuda.device_count() > len(RANKS)
ROOT = Path(__file__).parents[1]
NUM_PROMPTS, N = 4, 4
ROWS = NUM_PROMPTS * N


@pytest.fixture(scope="module")
def config():
    embedded.make("length_gap")
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose("base", [f"+experiment={'cpu_demo' if CPU else 'gpu_smoke'}"])
    OmegaConf.resolve(config)
    with open_dict(config):
        config.actor_rollout_ref.actor.optim.clip_grad = 1e9
        config.actor_rollout_ref.actor.optim.total_training_steps = 1
    return config


@pytest.fixture(scope="module")
def workers(config):
    """Actor worker groups of 1 and of 2 ranks, side by side."""
    with session(config) as here, Watch(here.folder):
        runtime_env = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env)
        runtime_env["env_vars"]["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        if here.python:
            runtime_env["py_executable"] = here.python
        # torch's FSDP1 takes no parameters on a CPU.
        sizes = {ranks: ranks for ranks in RANKS} | ({"fsdp": 1} if FSDP1 else {})
        ray.init(
            num_cpus=16,
            num_gpus=sum(sizes.values()),
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(here.folder / "ray"),
            runtime_env=runtime_env,
        )
        groups = {}
        for name, ranks in sizes.items():
            role = deepcopy(config.actor_rollout_ref)
            role.actor.strategy = role.actor.fsdp_config.strategy = (
                "fsdp" if name == "fsdp" else "fsdp2"
            )
            worker = RayClassWithInitArgs(cls=ray.remote(GradientWorker), config=role, role="actor")
            pool = RayResourcePool(
                [ranks], use_gpu=True, name_prefix=f"r{name}", max_colocate_count=1
            )
            groups[name] = RayWorkerGroup(pool, worker, device_name=config.trainer.device)
        for group in groups.values():
            group.init_model()
        yield groups


@pytest.fixture(scope="module")
def batch(config):
    """Sixteen responses in four groups, two of them aborted, off-policy enough to clip."""
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(config.actor_rollout_ref.model.path)
    prompt_N = torch.randint(3, 9, (NUM_PROMPTS,), generator=generator).repeat_interleave(N)
    length_N = torch.randint(1, 24, (ROWS,), generator=generator)
    counted_N = torch.ones(ROWS, dtype=torch.bool)
    counted_N[[5, 14]] = False
    reward_N = torch.randint(0, 2, (ROWS,), generator=generator).double()
    group_N = torch.arange(NUM_PROMPTS).repeat_interleave(N)
    advantage_N = reward_N - reward_N.view(NUM_PROMPTS, N).mean(1)[group_N]
    rows = []
    for i in range(ROWS):
        total = int(prompt_N[i] + length_N[i])
        ids = torch.randint(3, model.config.vocab_size, (total,), generator=generator)
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        log_prob = logits.log_softmax(-1).gather(-1, ids[1:, None])[prompt_N[i] - 1 :, 0]
        noise = 0.2 * torch.randn(log_prob.shape, generator=generator)
        mask = torch.full_like(log_prob, float(counted_N[i]))
        rows.append(
            {
                "input_ids": ids,
                "position_ids": torch.arange(total),
                "prompts": ids[: prompt_N[i]],
                "responses": ids[prompt_N[i] :],
                "response_mask": mask.long(),
                "loss_mask": mask.long(),
                "old_log_probs": log_prob + noise,
                "advantages": advantage_N[i].float() * mask,
            }
        )
    columns = {
        key: torch.nested.as_nested_tensor([row[key] for row in rows], layout=torch.jagged)
        for key in rows[0]
    }
    data = TensorDict(columns, batch_size=ROWS)
    return data, (length_N * counted_N, advantage_N, group_N, counted_N), rows, model


def update(group, data, weight_N, order, lr=0.0, slope_N=None, loss=None, **told):
    """One update with the weighted policy loss. The workers are told more than the rows."""
    columns = {WEIGHT_COLUMN: weight_N} | ({} if slope_N is None else {SLOPE_COLUMN: slope_N})
    actor = loss or default_config("vanilla")
    loss_fn = partial(weighted_ppo_loss, config=actor)
    return update_with(group, data, columns, order, loss_fn, lr, **told)


def update_with(group, data, columns, order, loss_fn, lr=0.0, mini_batch=None, **told):
    """One `update_actor`, as the trainer calls it, on the rows in this order."""
    group.set_lr(lr)
    group.set_loss_fn(loss_fn)
    whole = data.copy()
    for name, column in columns.items():
        whole[name] = column
    shuffled = tu.index_select_tensor_dict(whole, order)
    tu.assign_non_tensor(
        shuffled,
        global_batch_size=ROWS,
        mini_batch_size=mini_batch or len(order),
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        temperature=1.0,
        calculate_entropy=False,
        **told,
    )
    return tu.get(group.update_actor(shuffled), "metrics")


def response_log_prob(model, row):
    """Of the response's tokens."""
    logits = model(row["input_ids"][None]).logits[0, :-1]
    log_prob = logits.log_softmax(-1).gather(-1, row["input_ids"][1:, None])[:, 0]
    return log_prob[len(row["prompts"]) - 1 :]


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def weights(name, facts, limit=96.0):
    *columns, counted_N = facts
    rule = with_limit(limit)[name]
    return over_all_rows(rule(*(column[counted_N] for column in columns)), counted_N).float()


def reference_gradient(model, rows, weight_N):
    """Autograd on the model by itself, row by row, from the definition of the objective."""
    model.zero_grad()
    for row, weight in zip(rows, weight_N, strict=True):
        response_loss(model, row, weight).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def response_loss(model, row, weight):
    """A response's term of the objective."""
    ratio = (response_log_prob(model, row) - row["old_log_probs"]).exp()
    a = row["advantages"]
    token_loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    return weight * (token_loss * row["response_mask"]).sum() / ROWS
