"""Losses, rules and settings together: one running stack, another config each step."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from variants import AGAIN, METHODS, RESUMED, SAVED, VARIANTS

from recipe.tasks import embedded

pytestmark = [pytest.mark.live, pytest.mark.exhaustive]
ROOT = Path(__file__).parents[2]
MODEL = Path(embedded.folder("length_gap")) / "model"
SAMPLES, LIMIT = 4, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a run of all variants wrote."""
    folder = tmp_path_factory.mktemp("variants") / "run"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    run = subprocess.run(
        [sys.executable, "tests/variants.py", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1770,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def records(folder):
    """Each variant's step, by its name: its number and its metrics."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return dict(zip(VARIANTS, map(json.loads, lines), strict=True))


@pytest.fixture(scope="module")
def steps(records):
    """The metrics alone."""
    return {name: record["data"] for name, record in records.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains(name, steps):
    data = steps[name]
    assert math.isfinite(data["actor/pg_loss"])
    assert 0 < data["actor/grad_norm"] < 10
    # Halves that disagree, as of a batch without signal, stop the next update.
    assert data["actor/update_norm"] < 1
    assert (data["actor/update_norm"] > 0) == (data.get("actor/lr_factor") != 0)
    assert data["aggregation/num_positive"] > 0
    assert data["aggregation/num_negative"] > 0


# Those whose token loss is -A at ratio 1, in one update.
RATIO = (
    set(VARIANTS)
    - {"dppo_tv", "dppo_kl", "gpg", "cispo", "two_epochs", "two_mini_batches"}
    # GTPO's factors are by token, which the closed form leaves out.
    - {name for name in VARIANTS if name.startswith(("disco", "gtpo")) or name.endswith("several")}
)


# Those whose ratio is of the trainer's to the rollout's probabilities: 1 to their rounding.
ROUNDED = {"bypass", "bypass_mode", "token_weights", "sequence_weights"}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name in RATIO])
def test_an_on_policy_loss_is_the_one_expected_in_closed_form(name, steps):
    data = steps[name]
    expected = data["aggregation/pg_loss_expected"]
    rounding = 1e-4 if name in ROUNDED else 1e-6
    assert data["actor/pg_loss"] == pytest.approx(expected, rel=1e-4, abs=rounding)


def test_rules_with_a_length_gap_in_their_loss_show_it(steps):
    assert abs(steps["gspo"]["actor/pg_loss"]) > 1e-3
    assert abs(steps["vanilla"]["actor/pg_loss"]) < 1e-6


def test_entropy_bonus_and_kl_loss_are_added(steps):
    assert steps["entropy_bonus"]["actor/entropy_loss"] > 0
    assert steps["kl_loss"]["actor/kl_loss"] > 0
    assert "actor/kl_loss" not in steps["vanilla"]


def test_later_epochs_and_mini_batches_are_off_policy_by_a_little(steps):
    for name in ("two_epochs", "two_mini_batches"):
        data = steps[name]
        assert data["actor/ppo_kl"] != 0
        expected = data["aggregation/pg_loss_expected"]
        assert data["actor/pg_loss"] == pytest.approx(expected, rel=0.2)


def test_the_slope_by_the_learned_scalar_is_measured(steps):
    for name in ("lambda", "cispo", "two_mini_batches"):
        assert steps[name]["actor/lambda_scalar_gradient"] != 0
    assert "actor/lambda_scalar_gradient" not in steps["vanilla"]


def test_metrics_of_several_updates_are_means(steps):
    """verl takes these words in a name for another reducer; its own have a second slash."""
    for data in steps.values():
        names = [key for key in data if key.startswith(("aggregation", "advantage", "reward/"))]
        names += [key for key in data if key.startswith("actor/") and key.count("/") == 1]
        assert "actor/update_norm" in names
        assert not [n for n in names for word in ("max", "min", "sum", "total") if word in n]


def test_masked_truncated_responses_leave_the_objective(steps):
    masked, kept = steps["mask_truncated"], steps["vanilla"]
    assert masked["aggregation/truncated_negative"] > 0
    assert masked["aggregation/length_negative"] < LIMIT
    for data, all_count in ((masked, False), (kept, True)):
        groups = data["aggregation/num_groups"] - data["aggregation/num_zero_groups"]
        num = data["aggregation/num_positive"] + data["aggregation/num_negative"]
        assert (num == groups * SAMPLES) is all_count


def test_dropped_zero_groups_are_no_groups(steps):
    assert steps["drop_zero_groups"]["aggregation/num_zero_groups"] == 0


def test_rollout_correction_weights_and_rejects(steps):
    for name in ("token_weights", "sequence_weights"):
        for weight in ("min", "mean", "max"):
            found = steps[name][f"rollout_corr/rollout_is_{weight}"]
            assert found == pytest.approx(1, abs=1e-3)
    data = steps["rejection"]
    assert 0.01 < data["rollout_corr/rollout_rs_token_k1_masked_fraction"] < 0.99
    num = data["aggregation/num_positive"] + data["aggregation/num_negative"]
    tokens = data["aggregation/tokens_positive"] + data["aggregation/tokens_negative"]
    assert tokens / num < data["response_length/mean"]


# Of what a step sampled and learned; the rest is times, memory and rounding.
COMPARED = (
    "critic/",
    "response_length/",
    "advantage/",
    "aggregation/",
    "actor/disco",
    "actor/grad_norm",
    "actor/lr_factor",
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_on_from_its_checkpoint_as_if_it_had_not_been_stopped(name, records):
    again, resumed = (records[phase.format(name)] for phase in (AGAIN, RESUMED))
    assert resumed["step"] == again["step"] == records[SAVED.format(name)]["step"] + 1
    found, expected = resumed["data"], again["data"]
    compared = [key for key in expected if key.startswith(COMPARED)]
    assert len(compared) > 20
    for key in compared:
        assert found[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("ha_dw")])
def test_the_difficulty_anchor_is_what_earlier_batches_were(name, steps):
    saved, again = steps[SAVED.format(name)], steps[AGAIN.format(name)]
    y = [saved["advantage/observed"], again["advantage/observed"]]
    assert saved["advantage/anchor"] == pytest.approx(y[0])
    mean = sum(y) / 2 if name == "ha_dw_code" else y[0]
    assert again["advantage/anchor"] == pytest.approx(mean)
    scale = 1.5 if name == "ha_dw_code" else 1.3
    assert scale / math.e**2 < again["advantage/factor"] < scale * math.e**2


@pytest.mark.parametrize("name", ["gdpo", "gdpo_token"])
def test_gdpo_tells_groups_apart_by_every_reward(name, steps):
    data = steps[AGAIN.format(name)]
    for reward in ("correctness", "format", "length"):
        assert 0 < data[f"advantage/reward_{reward}"] <= 1
    assert data["advantage/reward_correctness"] == pytest.approx(data["reward/correct"])
    # Of a mean of 0 and a variance of 1 the extremes have a product of -1 at most.
    assert -data["critic/advantages/max"] * data["critic/advantages/min"] > 0.95


def test_gdpo_sees_groups_whose_lengths_lie_on_both_sides_of_the_limit(steps):
    key = "advantage/groups_by_length"
    assert any(data[key] > 0 for name, data in steps.items() if name.startswith("gdpo"))


def test_off_policy_gates_close_and_ratios_are_clipped(steps):
    """In the last of four updates the policy is not the one that sampled."""
    assert 0 < abs(steps["sapo_exact in several"]["actor/sapo_gate"] - 1) < 0.1
    assert 0.01 < steps["gmpo_exact in several"]["actor/pg_clipfrac"] < 1


def test_bapo_moves_its_bounds_until_both_signs_contribute_enough(steps):
    one = steps["bapo, again"]
    bounds = one["actor/bapo_lower"], one["actor/bapo_upper"]
    if one["actor/bapo_share_start"] >= 0.5:
        assert bounds == pytest.approx((0.6, 1.2))
    else:
        assert one["actor/bapo_share"] >= 0.5 or bounds == pytest.approx((0.9, 3.0))
    # Nine tenths cannot be reached, so in each of four updates both bounds go to their ends.
    several = steps["bapo in several"]
    assert several["actor/bapo_share"] < 0.9
    ends = several["actor/bapo_lower"], several["actor/bapo_upper"]
    assert ends == pytest.approx((0.9, 3.0))


def test_gtpo_finds_tokens_in_conflict(steps):
    """Each response is a line of steps in one form, so the first tokens are often the same."""
    for name in ("gtpo, again", "gtpo_code, again"):
        assert 0 < steps[name]["aggregation/conflict_share"] < 1
        assert steps[name]["aggregation/conflict_first_run"] > 0


def test_under_opo_a_token_mean_has_no_loss_at_ratio_1(steps):
    """Positive and negative tokens cancel in every group, and so does nothing else here."""
    assert steps["opo, again"]["actor/pg_loss"] == pytest.approx(0, abs=1e-5)
    assert steps["opo, again"]["actor/grad_norm"] > 1e-3
    # Under `token` other advantages leave the coupling of sign and length in the loss, unless the
    # responses of each group happen to be of one length.
    others = (phase.format(name) for name in ("maxrl", "oblr") for phase in (SAVED, AGAIN))
    assert max(abs(steps[name]["actor/pg_loss"]) for name in others) > 1e-4


def test_a_token_of_a_model_that_is_nearly_sure_has_a_small_square(steps):
    """It would be 1 of a token that is drawn from many alike, and 2 at most."""
    for phase in (SAVED, AGAIN):
        assert 0 < steps[phase.format("oblr")]["advantage/square_per_token"] < 0.5


def test_groups_without_a_correct_response_are_graded_by_their_steps(steps):
    """A third of the responses is correct, so of four often none is."""
    judged = [steps[phase.format("sgpo")] for phase in (SAVED, AGAIN)]
    assert sum(step["judge/responses"] for step in judged) > 0
    assert sum(step["advantage/graded"] for step in judged) > 0
    assert all(step.get("judge/failures", 0) == 0 for step in judged)


def test_the_learning_rate_follows_what_halves_of_earlier_batches_had_in_common(steps):
    saved, again = steps["follow_snr, saved"], steps["follow_snr, again"]
    assert saved["actor/lr_factor"] == 1
    ratio = saved["actor/gradient_signal"] / saved["actor/gradient_square"]
    assert again["actor/lr_factor"] == pytest.approx(min(max(ratio, 0), 1))
    assert saved["actor/gradient_square"] == pytest.approx(saved["actor/grad_norm"] ** 2, rel=1e-3)


def test_a_baseline_mixes_prompts_and_a_factor_takes_from_the_correct(steps):
    assert 0 < steps["shrinkage, again"]["advantage/shrinkage"] < 1
    assert steps["batch_std, again"]["aggregation/objective_share_negative"] > 0.8


def test_disco_is_constrained_and_separates_right_from_wrong(steps):
    for name in METHODS:
        if name.startswith("disco"):
            data = steps[AGAIN.format(name)]
            assert data["actor/pg_loss"] == pytest.approx(-data["actor/disco_objective"])
            assert "aggregation/objective_share_negative" not in data
    # With one update a step there is nothing yet between the policies; with more there is.
    assert steps["disco_logl, again"]["actor/disco_kl"] == pytest.approx(0, abs=1e-6)
    assert steps["discob_lratio, again"]["actor/disco_objective"] == pytest.approx(0, abs=1e-6)
    for name in ("disco_logl in several", "disco_lratio in several"):
        assert steps[name]["actor/disco_kl"] > 1e-6
    assert steps["disco_lratio in several"]["actor/disco_objective"] > 1e-4


def test_a_solved_prompt_is_not_sampled_again(folder, steps):
    """A resumed step writes over the dump of the step that it repeats."""
    correct, num, last = Counter(), Counter(), 0
    for path in sorted((folder / "rollouts").glob("*.jsonl"), key=lambda path: int(path.stem)):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        sampled = {line["input"] for line in lines}
        assert not [name for name in sampled if num[name] and correct[name] >= 0.9 * num[name]]
        for line in lines:
            num[line["input"]] += 1
            correct[line["input"]] += line["score"] > 0
        last = int(path.stem)
    solved = sum(correct[name] >= 0.9 * num[name] for name in num)
    assert last > 30 and max(num.values()) > 4 and solved > 0
    assert list(steps.values())[-1]["data/solved_prompts"] == solved / 200


def test_the_analysis_of_the_dump_agrees_with_the_metrics_of_the_run(folder, records, tmp_path):
    """Up to the tokens that its text does not show: the end token, dropped when decoding."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "recipe.analyze",
            str(folder / "rollouts"),
            "--tokenizer",
            str(MODEL),
            "--out",
            str(tmp_path),
        ],
        cwd=ROOT,
        check=True,
        timeout=360,
    )
    found = json.loads((tmp_path / "analysis.json").read_text())["steps"]
    assert len(found) == len(VARIANTS) - len(METHODS)
    for name, record in records.items():
        # These train on other responses, tokens or advantages than the dump shows.
        if name not in ("mask_truncated", "rejection") and "advantage" not in VARIANTS[name]:
            for key in (
                "objective_share_negative/token",
                "objective_share_negative/token_batch",
                "length_gap",
            ):
                measured = record["data"][f"aggregation/{key}"]
                value = found[str(record["step"])][key]["value"]
                assert value == pytest.approx(measured, abs=0.05), (name, key)
