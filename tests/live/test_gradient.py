"""The gradient does not depend on how a batch is split: on verl's FSDP2 engine, in Ray workers."""

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
from recipe import embedded
from recipe.aggregation import RULES, over_all_rows, value_and_slope
from recipe.composition import default_config, losses, refusal
from recipe.policy_loss import (
    SLOPE_COLUMN,
    SLOPE_METRIC,
    WEIGHT_COLUMN,
    for_worker,
    weighted_ppo_loss,
)
from recipe.processes import Watch, temporary_folder

# Also part of `make gpu-smoke`, where there is one GPU or more.
CPU = not torch.cuda.is_available()
pytestmark = pytest.mark.live if CPU else pytest.mark.gpu
# Groups of 1 and of 2 ranks stand side by side, so on GPUs they take three, and FSDP1 a fourth.
RANKS = [1, 2] if CPU or torch.cuda.device_count() > 3 else [1]
FSDP1 = not CPU and torch.cuda.device_count() > len(RANKS)
ROOT = Path(__file__).parents[2]
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
    with temporary_folder() as temporary, Watch(temporary):
        environment = dict(config.ray_kwargs.ray_init.runtime_env.env_vars)
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        # torch's FSDP1 takes no parameters on a CPU.
        sizes = {ranks: ranks for ranks in RANKS} | ({"fsdp": 1} if FSDP1 else {})
        ray.init(
            num_cpus=16, num_gpus=sum(sizes.values()), include_dashboard=False, log_to_driver=False,
            _temp_dir=str(temporary / "ray"), runtime_env={"env_vars": environment},
        )  # fmt: skip
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


def weights(name, facts, limit=96.0):
    *columns, counted_N = facts
    rule = partial(RULES[name], limit=limit) if name == "constant" else RULES[name]
    return over_all_rows(rule(*(column[counted_N] for column in columns)), counted_N).float()


def update(group, data, weight_N, order, lr=0.0, slope_N=None, loss=None):
    """One `update_actor`, as the trainer calls it, on the rows in this order."""
    group.set_lr(lr)
    actor = for_worker(loss or default_config("vanilla"))
    group.set_loss_fn(partial(weighted_ppo_loss, config=actor))
    whole = data.copy()
    whole[WEIGHT_COLUMN] = weight_N
    if slope_N is not None:
        whole[SLOPE_COLUMN] = slope_N
    shuffled = tu.index_select_tensor_dict(whole, order)
    tu.assign_non_tensor(
        shuffled, global_batch_size=ROWS, mini_batch_size=len(order), epochs=1, seed=1,
        dataloader_kwargs={"shuffle": False}, temperature=1.0, calculate_entropy=False,
    )  # fmt: skip
    return tu.get(group.update_actor(shuffled), "metrics")


def test_gradients_of_two_mini_batches_add_up_at_fixed_parameters(workers, batch):
    """Weights belong to whole groups, so it does not matter which rows share an update."""
    data, facts, _, _ = batch
    weight_N = weights("balanced", facts)
    workers[1].set_micro_batches(False, 4)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    halves = []
    for half in order.split(ROWS // 2):
        update(workers[1], data, weight_N, half)
        halves += workers[1].take_gradient()
    update(workers[1], data, weight_N, torch.arange(ROWS))
    [one] = workers[1].take_gradient()
    assert relative(halves[0] + halves[1], one) < 1e-5


def reference_gradient(model, rows, weight_N):
    """Autograd on the model by itself, row by row, from the definition of the objective."""
    model.zero_grad()
    for row, weight in zip(rows, weight_N, strict=True):
        response_loss(model, row, weight).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def response_loss(model, row, weight):
    """A response's term of the objective."""
    num_prompt = len(row["prompts"])
    logits = model(row["input_ids"][None]).logits[0, :-1]
    log_prob = logits.log_softmax(-1).gather(-1, row["input_ids"][1:, None])[:, 0]
    ratio = (log_prob[num_prompt - 1 :] - row["old_log_probs"]).exp()
    a = row["advantages"]
    token_loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    return weight * (token_loss * row["response_mask"]).sum() / ROWS


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_gradient_is_the_same_however_the_batch_is_split(name, workers, batch):
    data, facts, rows, model = batch
    weight_N = weights(name, facts)
    in_order = torch.arange(ROWS)
    shuffled = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))

    workers[1].set_micro_batches(False, ROWS)
    update(workers[1], data, weight_N, in_order)
    [one] = workers[1].take_gradient()

    # A micro-batch of at most 40 tokens: several on each rank.
    split = workers[RANKS[-1]]
    split.set_micro_batches(True, 40)
    update(split, data, weight_N, shuffled)
    for gradient in split.take_gradient():
        assert relative(gradient, one) < 1e-5
    assert relative(one, reference_gradient(model, rows, weight_N)) < 1e-5


def lambda_columns(facts, exponent=-1.5):
    *columns, counted_N = facts
    parts = value_and_slope(RULES["lambda"], exponent, *(c[counted_N] for c in columns))
    return [over_all_rows(part, counted_N).float() for part in parts]


@pytest.mark.parametrize("loss", [n for n in losses() if not refusal(default_config(n))])
def test_every_loss_that_takes_weights_keeps_gradient_and_slope_under_any_split(
    loss, workers, batch
):
    data, facts, _, _ = batch
    weight_N, slope_N = lambda_columns(facts)
    found = []
    for ranks, micro_batches in ((1, (False, ROWS)), (RANKS[-1], (True, 40))):
        workers[ranks].set_micro_batches(*micro_batches)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(ranks))
        metrics = update(
            workers[ranks], data, weight_N, order, slope_N=slope_N, loss=default_config(loss)
        )
        found.append((workers[ranks].take_gradient()[0], metrics[SLOPE_METRIC][0]))
    (whole, slope), (parts, slope_of_parts) = found
    assert relative(parts, whole) < 1e-5
    assert slope_of_parts == pytest.approx(slope, rel=1e-5)
    if loss == "vanilla":
        assert slope == pytest.approx(reference_slope(batch), rel=1e-5)


def reference_slope(batch, exponent=-1.5):
    """By autograd through the rule, on the model by itself."""
    _, (*columns, counted_N), rows, model = batch
    scalar = torch.tensor(exponent, dtype=torch.double, requires_grad=True)
    weight_C = RULES["lambda"](*(column[counted_N] for column in columns), exponent=scalar)
    weight_N = torch.zeros(ROWS, dtype=torch.double).index_put(
        (counted_N.nonzero()[:, 0],), weight_C * ROWS / len(weight_C)
    )
    sum(
        response_loss(model, row, weight) for row, weight in zip(rows, weight_N, strict=True)
    ).backward()
    return scalar.grad.item()


@pytest.mark.skipif(not FSDP1, reason="FSDP1 takes no parameters on a CPU; here a second GPU")
@pytest.mark.parametrize("name", sorted(RULES))
def test_fsdp_has_the_gradient_norm_of_fsdp2(name, workers, batch):
    data, facts, _, _ = batch
    weight_N = weights(name, facts)
    norms = []
    for group in (workers[1], workers["fsdp"]):
        group.set_micro_batches(True, 40)
        norms += update(group, data, weight_N, torch.arange(ROWS))["grad_norm"]
        group.forget()
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_the_rules_differ_on_this_batch(workers, batch):
    data, facts, _, _ = batch
    gradients = {}
    workers[1].set_micro_batches(False, ROWS)
    for name in RULES:
        update(workers[1], data, weights(name, facts), torch.arange(ROWS))
        [gradients[name]] = workers[1].take_gradient()
    for name in set(RULES) - {"balanced"}:
        assert relative(gradients[name], gradients["balanced"]) > 1e-2


@pytest.mark.parametrize("ranks", RANKS)
def test_the_update_norm_is_that_of_the_parameter_change(ranks, workers, batch):
    data, facts, _, _ = batch
    group = workers[ranks]
    before = group.take_parameters()[0]
    metrics = update(group, data, weights("token", facts), torch.arange(ROWS), lr=1e-2)
    # After AdamW's first step sqrt(v_hat) is the size of the gradient.
    small = (group.take_gradient()[0].abs() < 10 * 1e-8).double().mean().item()
    change = (group.take_parameters()[0] - before).norm().item()
    assert metrics["update_norm"] == pytest.approx([change], rel=1e-3)
    assert metrics["clip_hit"] == [0.0]
    assert 0 < small < 1
    assert metrics["eps_dominated"] == pytest.approx([small], rel=1e-3)
