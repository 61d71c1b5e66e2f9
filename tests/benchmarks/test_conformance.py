"""Match measured weights with rules; verl's own code says what is committed."""

import json

import pytest
import torch

from benchmarks.conformance import match
from benchmarks.conformance.__main__ import ENVIRONMENT, PEERS, RESULTS
from benchmarks.conformance.fixtures import ALL, BATCHES, HALVES, SPLITS, N, weights_of
from benchmarks.conformance.harness import on_ranks
from benchmarks.conformance.match import Run, dependence, expected, judge, runs_of
from benchmarks.conformance.tables import described, factor, results
from recipe.maths.rules import MICRO, RULES

# What a packing by tokens could be.
PACKED = (ALL[:7], ALL[7:12], ALL[12:15], ALL[15:])


def synthetic(weights_of_run, splits=SPLITS):
    """Every batch under every split, with the weights of a function of the run."""
    found = []
    for batch in BATCHES:
        for split in splits:
            micro_batches = [rows for rank in split.ranks for rows in rank]
            if split.packed:
                micro_batches = PACKED
            micro = [0] * N
            for number, rows in enumerate(micro_batches):
                for row in rows:
                    micro[row] = number
            run = Run(batch.name, split.name, [0.0] * N, micro)
            found.append(run._replace(weights=weights_of_run(run).tolist()))
    return found


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("times", [1.0, 512.0, 1e-3])
def test_each_rule_is_named_whatever_the_factor(name, times):
    verdict = judge(synthetic(lambda run: times * expected(name, run)))
    assert verdict.rule == name
    assert verdict.factor == pytest.approx(times)
    assert bool(verdict.depends) == (name == MICRO)


def test_the_fixtures_separate_all_rules_by_far():
    runs = synthetic(lambda run: torch.ones(N))
    for one in RULES:
        for other in RULES:
            ratios = torch.cat([expected(one, run) / expected(other, run) for run in runs])
            spread = (ratios / ratios.mean() - 1).abs().max()
            assert (spread > 0.02) == (one != other), (one, other)


def test_rules_that_coincide_on_the_fixtures_are_found(monkeypatch):
    monkeypatch.setitem(RULES, "twin", RULES["token"])
    with pytest.raises(ValueError, match=r"do not separate .*'token'.*'twin'"):
        judge(synthetic(lambda run: expected("token", run)))


def test_a_factor_that_differs_between_splits_is_no_rule():
    """A loss that is added up over micro-batches, and not divided by their number."""
    verdict = judge(synthetic(lambda run: expected("sequence", run) * len(set(run.micro))))
    assert verdict.rule is None and verdict.alone == "sequence"
    assert verdict.depends["the micro-batch"] == pytest.approx(7)
    words = described(verdict)
    assert words.startswith("**no rule**: depends on the micro-batch by up to 700 %, on ranks by ")
    assert words.endswith("; `sequence` on one micro-batch")
    assert factor(verdict) == "-"


def test_dependence_names_the_cause_and_the_largest_change():
    def padded(run):
        return torch.full((N,), 0.5 if run.split == "padded" else 1.0)

    assert dependence(synthetic(padded)) == {"padding": 0.5}

    def by_rank(run):
        weight_N = torch.ones(N)
        if run.split.startswith("ranks"):
            weight_N[list(HALVES[1])] = 1.25
        return weight_N

    assert dependence(synthetic(by_rank)) == {"ranks": 0.25}
    verdict = judge(synthetic(lambda run: expected(MICRO, run)))
    assert set(verdict.depends) == {"the micro-batch", "ranks"}
    assert described(verdict).startswith("`token_micro`; depends on the micro-batch by up to ")


def test_a_rule_that_packing_breaks_is_said_to_be_one():
    def weights(run):
        return expected("sequence" if match.PACKED[run.split] else "token", run)

    verdict = judge(synthetic(weights))
    assert (verdict.rule, verdict.unpacked) == (None, "token")
    assert "no rule if micro-batches are packed by tokens" in described(verdict)


def test_unequal_tokens_and_padding_with_a_gradient_are_refused():
    batch = BATCHES[0]
    gradient_NT = batch.mask(range(N), 32) * -torch.tensor(batch.advantages)[:, None]
    assert weights_of(gradient_NT, batch) == pytest.approx([1.0] * N)
    other = gradient_NT.clone()
    other[0, 0] *= 2
    with pytest.raises(ValueError, match="tokens of response 0 have different weights"):
        weights_of(other, batch)
    gradient_NT[5, 31] = 1
    with pytest.raises(ValueError, match="padding of response 5"):
        weights_of(gradient_NT, batch)


def test_batches_have_both_signs_in_each_group_and_no_advantage_in_sum():
    for batch in BATCHES:
        advantage_PG = torch.tensor(batch.advantages).view(-1, 4)
        assert (advantage_PG.sum(1) == 0).all() and (advantage_PG != 0).all()
        assert (advantage_PG > 0).any(1).all() and (advantage_PG < 0).any(1).all()


def test_every_committed_result_says_how_it_was_made_and_has_a_verdict():
    for peer, result in zip(PEERS, results(), strict=True):
        assert result["commit"] and result["command"] and "seed" in result
        assert result["package"] in result["versions"]
        assert sum(setting["default"] for setting in result["settings"]) == 1, peer
        for setting in result["settings"]:
            judge(runs_of(setting))


def test_verls_released_code_gives_the_committed_weights(monkeypatch):
    for name, value in ENVIRONMENT["verl"].items():
        monkeypatch.setenv(name, value)
    found = {
        (run["name"], run["batch"], run["split"]): run
        for run in on_ranks(1, "benchmarks.conformance.peers.verl")
    }
    committed = json.loads((RESULTS / "verl.json").read_text())["settings"]
    one_rank = {split.name for split in SPLITS if len(split.ranks) == 1}
    assert len(found) == len(committed) * len(BATCHES) * len(one_rank)
    for setting in committed:
        for run in runs_of(setting):
            if run.split in one_rank:
                again = found[setting["setting"], run.batch, run.split]
                assert again["weights"] == pytest.approx(run.weights, rel=1e-6)
                assert again["micro"] == run.micro
