import json
import math
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from recipe.base.errors import UserError
from recipe.config.compose import composed, resolve
from recipe.estimator import steps
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.options import Options, check
from recipe.estimator.steps import measured_changes
from recipe.maths.estimators import batches_of, leave_one_out
from recipe.maths.rules import RULES
from recipe.probes.sampling import Sampler
from recipe.tasks import embedded

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
SMALL = Options(
    prompts=16,
    group=4,
    batch_groups=4,
    rules=("token", "constant", "balanced_batch"),
    advantage="std",
    baseline="token",
    sketch=0,
    fresh=8,
    step_batches=2,
    seed=3,
)


@pytest.fixture(scope="module")
def config():
    found = composed(["+experiment=cpu_demo"])
    resolve(found)
    embedded.make(found.data.task)
    return found


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def exact(config, tmp_path_factory):
    """A small probe with exact gradients, and its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("exact")
    return collect(config, SMALL, folder, silent), folder


def test_gradients_log_probs_and_moves_agree_by_finite_differences(exact):
    """Along one direction, every response's log-prob changes as its gradient says."""
    kept, _ = exact
    model, responses = kept.model, kept.responses.of(range(4))
    num = len(responses.token_N)
    factor = torch.randn(1, num, generator=torch.Generator().manual_seed(0))
    direction = [part[0] for part in model.combined(responses, factor)]
    norm = math.sqrt(sum(part.square().sum().item() for part in direction))
    found = []
    for length in (0.01 / norm, -0.01 / norm):
        with model.moved(direction, length):
            found.append(model.log_probs(responses))
    slope_N = (found[0] - found[1]) * norm / 0.02
    gram_NN = kept.grams["sgd"][:num, :num]
    # The direction is a sum of gradients, so its products with them are sums of products.
    torch.testing.assert_close(slope_N, gram_NN @ factor[0].double(), rtol=2e-2, atol=2.0)
    again = model.log_probs(responses)
    assert torch.equal(again, model.log_probs(responses))


def test_a_tiny_step_changes_the_score_as_the_gradient_of_the_fresh_prompts_says(
    exact, monkeypatch
):
    kept, _ = exact
    monkeypatch.setattr(steps, "RISE", 1e-4)
    batch_P = batches_of(16, 4, torch.Generator().manual_seed(0))
    batch_P = batch_P.where(batch_P < 2, -1)
    rules = {"constant": RULES["constant"]}
    norm = {"sgd": 1.0, "adamw": 1.0}
    arguments = (kept.model, kept.scale, kept.responses, kept.fresh, rules, "none", batch_P, norm)
    found = measured_changes(*arguments, silent)
    # The same to first order, from the two gradients.
    rows = kept.responses
    chosen = batch_P[rows.group_N]
    gain = leave_one_out(rows.score_N, rows.group_N)
    fresh = leave_one_out(kept.fresh.score_N, kept.fresh.group_N) / len(kept.fresh.score_N)
    true = torch.cat([part[0] for part in kept.model.combined(kept.fresh, fresh[None])])
    scale = torch.cat([part.flatten() for part in kept.scale])
    for batch in range(2):
        factor = gain.where(chosen == batch, 0.0)
        gradient = torch.cat([part[0] for part in kept.model.combined(rows, factor[None])])
        for metric, direction in (("sgd", gradient), ("adamw", gradient * scale)):
            expected = 1e-4 * (direction @ true) / (direction @ gradient).sqrt()
            measured = found[metric].by_batch_RTP[0, batch].mean()
            assert measured.item() == pytest.approx(expected.item(), rel=0.05, abs=1e-6)


def test_sketched_and_exact_products_agree_within_the_stated_error(exact, config, tmp_path):
    width = 2**14
    sketched = collect(config, SMALL._replace(sketch=width), tmp_path, silent)
    for metric, gram_NN in exact[0].grams.items():
        norm_N = gram_NN.diagonal().sqrt()
        error_NN = (sketched.grams[metric] - gram_NN) / (norm_N[:, None] * norm_N)
        off = error_NN[~torch.eye(len(norm_N), dtype=torch.bool)]
        assert off.square().mean().sqrt() < 1.5 / math.sqrt(width)
    # What is concluded from both differs by no more than a few such errors.
    found = [judge(kept, SMALL._replace(step_batches=0), silent) for kept in (exact[0], sketched)]
    for rule in SMALL.rules:
        for key in ("gain_own_norm/sgd", "gain_rms/sgd"):
            one, other = (result["rules"][rule][key]["value"] for result in found)
            assert one == pytest.approx(other, abs=10 / math.sqrt(width))


def test_constant_without_std_has_no_bias(exact):
    options = SMALL._replace(advantage="none", step_batches=0)
    found = judge(exact[0], options, silent)["rules"]["constant"]["cosine/sgd"]
    assert found["value"] == pytest.approx(1, abs=1e-6)


def test_a_probe_goes_on_from_what_is_kept(exact, config, tmp_path):
    """Half of the responses and a torn row of gradients: the rest is made anew, and alike."""
    kept, folder = exact
    for name in ("kept.json", "adamw_scale.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / "responses.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "responses.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:20])
    whole = (folder / "gradients.bin").read_bytes()
    (tmp_path / "gradients.bin").write_bytes(whole[: len(whole) // 2 + 5])
    said = []
    again = collect(config, SMALL, tmp_path, said.append)
    assert [text for text in said if text.startswith("sampled")] == ["sampled 24 of 24 groups"]
    assert (tmp_path / "gradients.bin").read_bytes() == whole
    for metric, gram_NN in kept.grams.items():
        assert torch.equal(again.grams[metric], gram_NN)


def test_a_folder_of_another_probe_is_refused(exact, config):
    with pytest.raises(UserError, match="keeps responses of a probe with another seed"):
        collect(config, SMALL._replace(seed=4), exact[1], silent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": 1}, "--group is 1, but an advantage compares"),
        ({"rules": ("token", "tokens")}, "no rule 'tokens'. Known rules are sequence, token"),
        ({"baseline": "balanced"}, "--baseline is balanced, but --rules are token, constant"),
        ({"prompts": 12}, "make 3 batches of 4 groups, but noise is measured between at least 4"),
        ({"fresh": 4}, "needs 8 fresh prompts and 2 batches"),
    ],
)
def test_options_that_measure_nothing_are_refused(changes, said):
    with pytest.raises(UserError) as error:
        check(SMALL._replace(**changes))
    assert said in str(error.value)


def test_more_prompts_than_there_are_are_refused(config, tmp_path):
    with pytest.raises(UserError, match="the data has 8192 prompts, and 9008 are needed"):
        collect(config, SMALL._replace(prompts=9000), tmp_path, silent)


def test_a_model_that_does_not_load_is_refused(config, tmp_path):
    other = deepcopy(config)
    other.actor_rollout_ref.model.path = str(tmp_path)
    with pytest.raises(UserError, match=r"does not load: .* Give a folder that transformers"):
        collect(other, SMALL, tmp_path / "out", silent)


def test_prompts_without_a_mixed_group_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Sampler, "_score", lambda *_: 1.0)
    with pytest.raises(UserError, match="no group has correct and incorrect responses: 100% of"):
        collect(config, SMALL, tmp_path, silent)


def probe(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "recipe.probe", "estimator", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def test_a_model_that_is_not_there_is_answered_in_one_paragraph(tmp_path):
    run = probe("--model", "nowhere", "--out", str(tmp_path / "out"))
    out = run.communicate(timeout=300)[0]
    assert run.returncode == 1
    assert out.splitlines()[-1].startswith("error: the model nowhere is no folder")
    assert "Traceback" not in out


def test_a_killed_probe_loses_nothing_it_has_sampled(tmp_path):
    words = ("--prompts", "32", "--group", "4", "--fresh", "16", "--step-batches", "2")
    words += ("--rules", "token", "balanced", "--out", str(tmp_path))
    first = probe(*words)
    for line in first.stdout:
        if "sampled 16 of 48 groups" in line:
            first.send_signal(signal.SIGKILL)
            break
    first.wait()
    kept = (tmp_path / "responses.jsonl").read_bytes()
    assert kept.count(b"\n") >= 16
    second = probe(*words)
    said = second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    assert "sampled 16 of 48 groups" not in said
    assert (tmp_path / "responses.jsonl").read_bytes().startswith(kept)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"].startswith("python -m recipe.probe estimator --prompts 32")
    assert list(result["rules"]) == ["token", "balanced"]
    assert "| balanced " in said and "Differences to `token`" in said
    assert "![estimator](estimator.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "estimator.png").stat().st_size > 1000


def test_what_is_not_defined_is_no_number_in_the_result(exact):
    """Responses of one length: no growth with length follows from them."""
    kept = exact[0]
    responses = kept.responses._replace(token_N=[token[:1] for token in kept.responses.token_N])
    result = judge(kept._replace(responses=responses), SMALL._replace(step_batches=0), silent)
    assert result["noise"]["sgd"]["slope_correct"] is None
    json.dumps(result, allow_nan=False)
