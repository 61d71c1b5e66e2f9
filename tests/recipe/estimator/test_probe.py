import json
import math
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from statistics import fmean

import pytest
import torch
from scipy import stats

from recipe.base.errors import UserError
from recipe.config.compose import composed, resolve
from recipe.estimator import steps
from recipe.estimator.collect import collect
from recipe.estimator.judge import judge
from recipe.estimator.model import Model
from recipe.estimator.options import Options, check
from recipe.estimator.seeds import check_seeds, pooled
from recipe.estimator.steps import measured_changes
from recipe.maths.estimators import Rows, batches_of, leave_one_out
from recipe.maths.rules import RULES
from recipe.sampling.scored import Scorer
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
    sampler="transformers",
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
    responses = kept.responses
    rows = Rows(responses.length_N, responses.score_N, responses.group_N)
    arguments = (kept.model, kept.scale, responses, rows, kept.fresh, rules, "none", batch_P, norm)
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


def test_logit_squares_are_those_of_the_gradient_by_the_logits(exact):
    """Each response alone, without padding, and its gradient by all logits at once."""
    model, responses = exact[0].model, exact[0].responses.of(range(2))
    found = model.logit_squares(responses)
    for i, (prompt, token) in enumerate(
        zip(responses.prompt_N, responses.token_N, strict=True),
    ):
        with torch.no_grad():
            logits = model.model(torch.cat([prompt, token])[None]).logits[0, -len(token) - 1 : -1]
        logits.requires_grad_()
        logits.log_softmax(-1).gather(-1, token[:, None]).sum().backward()
        # A token's log-probability depends on the logits of its own place alone.
        assert found[i].item() == pytest.approx(logits.grad.square().sum().item(), rel=1e-4)


def test_the_gradient_weighted_baseline_is_that_of_opo_if_the_squares_are_lengths(
    exact, monkeypatch
):
    def figures(advantage):
        options = SMALL._replace(advantage=advantage, rules=("constant", "token"), step_batches=0)
        return judge(exact[0], options, silent)["rules"]

    opo, oblr = figures("opo"), figures("oblr")
    assert abs(opo["constant"]["snr/sgd"]["value"] - oblr["constant"]["snr/sgd"]["value"]) > 1e-3
    monkeypatch.setattr(Model, "logit_squares", lambda _, responses: responses.length_N)
    assert figures("oblr") == opo


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


def test_a_step_is_not_measured_on_groups_of_one_score(exact):
    fresh = exact[0].fresh._replace(score_N=torch.ones(len(exact[0].fresh.score_N)))
    with pytest.raises(UserError, match="all 8 fresh prompts have responses of one score"):
        judge(exact[0]._replace(fresh=fresh), SMALL, silent)


def test_a_folder_of_another_probe_is_refused(exact, config):
    with pytest.raises(UserError, match="keeps responses of a probe with another seed"):
        collect(config, SMALL._replace(seed=4), exact[1], silent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": 1}, "--group is 1, but an advantage compares"),
        ({"rules": ("token", "tokens")}, "no rule 'tokens'. Known rules are sequence, token"),
        ({"baseline": "balanced"}, "--baseline is balanced, but --rules are token, constant"),
        ({"positive_factor": -1.0}, "--positive-factor is -1. Give 1, which leaves the rules"),
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
    monkeypatch.setattr(Scorer, "score", lambda *_: 1.0)
    with pytest.raises(UserError, match="no group has correct and incorrect responses: 100% of"):
        collect(config, SMALL, tmp_path, silent)


def probe(*words: str, ranks: int = 1) -> subprocess.Popen:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [sys.executable, "-m", *launcher[: 4 * (ranks > 1)], "recipe.probe", "estimator"]
    command += words
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def test_a_model_that_is_not_there_is_answered_in_one_paragraph(tmp_path):
    run = probe("--model", "nowhere", "--out", str(tmp_path / "out"))
    out = run.communicate(timeout=300)[0]
    assert run.returncode == 1
    assert out.splitlines()[-1].startswith("error: the model nowhere is no folder")
    assert "Traceback" not in out


def test_a_killed_probe_of_three_seeds_loses_nothing_it_has_sampled(tmp_path):
    words = ("--prompts", "24", "--group", "4", "--batch-groups", "4", "--fresh", "8")
    words += ("--step-batches", "2", "--rules", "token", "balanced", "--out", str(tmp_path))
    words += ("--seed", "0", "1", "2")
    first = probe(*words)
    sampled = 0
    for line in first.stdout:
        sampled += "sampled 16 of 32 groups" in line
        # In the second seed.
        if sampled == 2:
            first.send_signal(signal.SIGKILL)
            break
    first.wait()
    done, half = (tmp_path / f"seed-{seed}/responses.jsonl" for seed in (0, 1))
    whole, kept = done.read_bytes(), half.read_bytes()
    assert kept.count(b"\n") >= 16
    second = probe(*words)
    said = second.communicate(timeout=900)[0]
    assert second.returncode == 0, said
    # Only the third seed had nothing.
    assert said.count("sampled 16 of 32 groups") == 1
    assert done.read_bytes() == whole and half.read_bytes().startswith(kept)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"].startswith("python -m recipe.probe estimator --prompts 24")
    assert list(result["rules"]) == ["token", "balanced"]
    assert result["seed"] == [0, 1, 2]
    of_seeds = [json.loads((tmp_path / f"seed-{s}/result.json").read_text()) for s in range(3)]
    for key in ("gain_rms/adamw", "measured/sgd"):
        values = [one["rules"]["balanced"][key]["value"] for one in of_seeds]
        low, high = stats.t.interval(0.95, 2, fmean(values), stats.sem(values))
        found = result["rules"]["balanced"][key]
        assert found["value"] == pytest.approx((low + high) / 2)
        assert found["half_width"] == pytest.approx((high - low) / 2)
    assert "| balanced " in said and "Differences to `token`" in said
    assert "![estimator](estimator.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "estimator.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("seeds", "said"),
    [([0, 1], "--seed has 2 seeds"), ([0, 1, 1], "--seed is 0 1 1. Give each seed once.")],
)
def test_seeds_that_give_no_interval_are_refused(seeds, said):
    with pytest.raises(UserError) as error:
        check_seeds(seeds)
    assert said in str(error.value)


def test_what_a_seed_does_not_define_its_mean_does_not():
    known = {"value": 1.0, "half_width": 0.1, "difference": 0.5}
    known |= {"difference_half_width": 0.1, "difference_half_width_together": 0.2}
    facts = {"num_mixed": 3, "rise": 0.02, "sketch_error": 0.0, "correct": 0.5}
    facts |= {"length": 9.0, "length_gap": None, "length_variation": 0.1}
    results = [
        {"options": {"seed": seed}, **facts, "rules": {"token": {"cosine": found, "share": 0.5}}}
        for seed, found in enumerate([known, known, known | {"value": None, "half_width": None}])
    ]
    result = pooled(results)
    found = result["rules"]["token"]["cosine"]
    assert found["value"] is None and found["half_width"] is None
    # An interval over seeds needs no interval of each.
    assert found["difference"] == 0.5 and found["difference_half_width"] == 0
    assert result["length_gap"] is None and result["num_mixed"] == 9


def test_what_is_not_defined_is_no_number_in_the_result(exact):
    """Responses of one length: no growth with length follows from them."""
    kept = exact[0]
    responses = kept.responses._replace(token_N=[token[:1] for token in kept.responses.token_N])
    result = judge(kept._replace(responses=responses), SMALL._replace(step_batches=0), silent)
    assert result["noise"]["sgd"]["slope_correct"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.exhaustive
@pytest.mark.parametrize("sketch", [0, 2**14])
def test_two_ranks_that_share_the_model_measure_what_one_does(exact, tmp_path, sketch):
    """verl's engine shards the model with FSDP2; each rank keeps its part of the gradients."""
    words = ("--prompts", "16", "--group", "4", "--batch-groups", "4", "--fresh", "8")
    words += ("--rules", *SMALL.rules, "--seed", "3", "--sketch", str(sketch))
    words += ("--out", str(tmp_path))
    run = probe(*words, "--step-batches", "0", ranks=2)
    out = run.communicate(timeout=300)[0]
    assert run.returncode == 0, out
    assert out.count("differentiated 64 of 64 responses") == 1
    sizes = [(tmp_path / name).stat().st_size for name in ("gradients.bin", "gradients-1.bin")]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]
    if not sketch:
        # A kill leaves ranks at different responses; both go on from the earlier one.
        kept = {path: path.read_bytes() for path in tmp_path.glob("gradients*.bin")}
        (tmp_path / "gradients-1.bin").write_bytes(
            kept[tmp_path / "gradients-1.bin"][: sizes[1] // 3]
        )
        again = probe(*words, "--step-batches", "2", ranks=2)
        said = again.communicate(timeout=300)[0]
        assert again.returncode == 0, said
        assert {path: path.read_bytes() for path in kept} == kept
    result = json.loads((tmp_path / "result.json").read_text())
    alone = judge(exact[0], SMALL._replace(step_batches=0 if sketch else 2), silent)
    tolerance = 10 / math.sqrt(sketch) if sketch else 1e-4
    for rule, numbers in alone["rules"].items():
        assert set(numbers) == set(result["rules"][rule])
        for key, number in numbers.items():
            if key.startswith(("gain", "measured", "SNR")):
                other = result["rules"][rule][key]["value"]
                assert number["value"] == pytest.approx(other, abs=tolerance), (rule, key)
