import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe.base.errors import UserError
from recipe.config.compose import composed, resolve
from recipe.sampling.groups import SampledGroups
from recipe.tasks import embedded

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("actor_rollout_ref.rollout.temperature=0.8", "sampling that is not at temperature 1"),
        ("aggregation=lambda", "a learned scalar"),
        ("actor_rollout_ref.actor.use_kl_loss=true", "a KL term"),
        ("actor_rollout_ref.actor.entropy_coeff=0.01", "an entropy term"),
        ("actor_rollout_ref.actor.optim.lr_warmup_steps=3", "a learning rate that changes"),
        ("algorithm.filter_groups.enable=true", "filtered groups"),
        ("objective=disco_logl", "an objective that looks at a whole mini-batch"),
        ("advantage=sgpo", "an advantage that needs a judge"),
        ("follow_snr=0.9", "follow_snr"),
        ("leave_out_solved=0.9", "leave_out_solved"),
    ],
)
def test_what_only_the_live_stack_does_is_refused(override, said):
    from recipe.study.laboratory import check

    config = composed(["+experiment=cpu_demo", override])
    resolve(config)
    with pytest.raises(UserError, match=f"the config has {said}.* run it on the live stack"):
        check(config)


@pytest.mark.slow
def test_the_laboratory_gives_an_advantage_the_squares_that_the_estimator_computes():
    """By another function, response by response; and they are what `oblr` trains with."""
    from recipe.estimator.model import Model
    from recipe.study.laboratory import Laboratory, as_batch, squares

    config = composed(["+experiment=cpu_demo", "advantage=oblr", "aggregation=token"])
    config.trainer.total_training_steps = 1
    resolve(config)
    embedded.make(config.data.task)
    laboratory = Laboratory(config)
    torch.manual_seed(0)
    sampled = laboratory.sampler.sample(laboratory.rows[:2], config.actor_rollout_ref.rollout.n)
    data, _ = as_batch(sampled, config)
    groups = SampledGroups(
        [one.prompt for one in sampled],
        [one.token for one in sampled],
        torch.tensor([one.score for one in sampled]),
        torch.arange(2).repeat_interleave(config.actor_rollout_ref.rollout.n),
    )
    expected = Model(laboratory.model).logit_squares(groups)
    torch.testing.assert_close(squares(laboratory.model, data), expected, rtol=1e-4, atol=1e-4)
    [step] = laboratory.train(config)
    assert step.gradient_norm > 0


@pytest.mark.slow
def test_the_laboratorys_gradient_is_that_of_verls_engine_on_the_same_batch():
    """At ratios away from 1, where the gradient is far from the on-policy one."""
    command = [sys.executable, str(ROOT / "tests" / "study_gradient.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("log_probs") < 1e-5
    differences = {name: value for name, value in found.items() if "on-policy" not in name}
    assert len(differences) == 3
    assert all(value < 1e-5 for value in differences.values()), differences
    assert all(found[f"{name} on-policy"] > 0.01 for name in differences)
