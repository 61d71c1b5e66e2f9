"""The gradient of TRL's trainer under a rule is that of the rule's formula on the whole batch."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def rule_weight(rule, row, rows):
    """Return the weight of a response, from the papers' formulas."""
    of_group = [r for r in rows if r["group"] == row["group"]]
    if rule == "constant":
        return 1 / 24
    if rule == "sequence":
        return 1 / row["length"]
    if rule == "balanced":
        of_group = [
            r
            for r in of_group
            if (r["A"] > 0) == (row["A"] > 0) and (r["A"] != 0) == (row["A"] != 0)
        ]
    return len(of_group) / sum(r["length"] for r in of_group)


def expected_gradient(rule, batches):
    from trl_step import model

    rows = []
    for batch in batches:
        for row in range(len(batch["advantages"])):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
            rows.append({"prompt": prompt, "completion": completion, "length": len(completion)})
            rows[-1] |= {"A": batch["advantages"][row].item(), "group": (len(rows) - 1) // 4}
    policy = model().double()
    for row in rows:
        tokens = torch.cat([row["prompt"], row["completion"]])
        log_probs = policy(tokens[None]).logits[0, len(row["prompt"]) - 1 : -1].log_softmax(-1)
        chosen = log_probs.gather(-1, row["completion"][:, None]).sum()
        (-rule_weight(rule, row, rows) * row["A"] * chosen / len(rows)).backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters()}, rows


# On-policy these losses have the gradient of `dapo`.
CISPO = {"loss_type": "cispo", "epsilon_high": 5.0}
GSPO = {"importance_sampling_level": "sequence"}
CASES = [
    *(
        (*case, {})
        for case in product(("balanced", "token", "sequence", "constant"), (1, 4), (1, 2))
    ),
    *(("balanced", 4, 2, more) for more in (CISPO, GSPO)),
]


@pytest.mark.parametrize(("rule", "accumulation", "processes", "more"), CASES)
def test_the_gradient_is_that_of_the_rule(rule, accumulation, processes, more, tmp_path):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launch, str(HERE / "trl_step.py"), str(tmp_path), rule]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(processes), str(accumulation), json.dumps(more)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    batches = [torch.load(tmp_path / f"batch{rank}.pt") for rank in range(processes)]
    expected, rows = expected_gradient(rule, batches)
    lengths = {row["length"] for row in rows}
    assert len(lengths) > 3 and {row["A"] > 0 for row in rows} == {True, False}
    found = torch.load(tmp_path / "gradient.pt")
    assert found.keys() == expected.keys()
    whole = torch.cat([g.flatten() for g in expected.values()])
    error = torch.cat([found[name].double().flatten() for name in expected]) - whole
    assert error.norm() < 1e-5 * whole.norm()
    logged = torch.load(tmp_path / "log.pt")[0]
    assert "aggregation/length_gap" in logged and "aggregation/objective_share_positive" in logged


@pytest.mark.parametrize(
    ("given", "rule", "message"),
    [
        ({"loss_type": "grpo"}, "balanced", "aggregation of its own"),
        ({"beta": 0.1}, "balanced", "KL penalty"),
        ({}, "median", "known rules are balanced"),
    ],
)
def test_what_no_rule_can_weigh_is_refused(given, rule, message, tmp_path):
    from balanced_aggregation.integrations.trl import AggregatedGRPOTrainer
    from trl import GRPOConfig
    from trl_step import model, reward

    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": "none"}
    args = GRPOConfig(**common, num_generations=4, **given)
    with pytest.raises(ValueError, match=message):
        AggregatedGRPOTrainer(model(), reward, args, aggregation=rule)


def test_the_example_trains():
    example = HERE.parents[1] / "examples/train_with_trl.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("positive share 50%") == 5
