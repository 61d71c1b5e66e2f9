"""Prompts that are solved are left out of later epochs, also after a restart in mid-epoch."""

import driver
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from recipe.base.errors import UserError
from recipe.config.checks import check_config
from recipe.training import resampling
from recipe.training.resampling import ROW, PassRates, count_correct, without_solved

NUM, BATCH = 12, 3


def loaders(solved_at=0.9, shuffle=True, workers=0):
    """verl's data loader, and the one that leaves solved prompts out."""
    rows = [{"text": f"prompt {row}"} for row in range(NUM)]
    generator = torch.Generator().manual_seed(5)
    sampler = RandomSampler(rows, generator=generator) if shuffle else range(NUM)
    plain = StatefulDataLoader(
        rows, BATCH, sampler=sampler, drop_last=True, collate_fn=list, num_workers=workers
    )
    return plain, *without_solved(plain, solved_at)


def order(batches):
    return [example[ROW] for batch in batches for example in batch]


def solve(rates, *rows):
    rates.add(torch.tensor(rows), torch.ones(len(rows), dtype=torch.bool))


def test_the_first_epoch_is_that_of_verl_with_numbered_rows():
    plain, _, _ = loaders()
    expected = [example["text"] for batch in plain for example in batch]
    _, loader, _ = loaders()
    found = [example for batch in loader for example in batch]
    assert [example["text"] for example in found] == expected
    assert [f"prompt {example[ROW]}" for example in found] == expected


def test_what_is_solved_leaves_from_the_next_epoch_on():
    _, loader, rates = loaders()
    batches = iter(loader)
    seen = order([next(batches)])
    last = next(row for row in range(NUM) if row not in seen)
    solve(rates, last, seen[0])
    assert last in order(batches)
    later = order(loader)
    assert set(later) <= set(range(NUM)) - {last, seen[0]}
    # Of ten prompts, three batches of three.
    assert len(later) == len(set(later)) == 9


def test_a_prompt_is_solved_by_its_share_over_the_whole_run():
    rates = PassRates(4, 0.75)
    rates.add(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 1, 1, 0, 0, 0]) > 0)
    assert rates.solved() == [0]
    rates.add(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1]) > 0)
    assert rates.solved() == [1]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_resumed_in_an_epoch_goes_on_with_its_prompts(tmp_path, shuffle, workers):
    _, loader, rates = loaders(shuffle=shuffle, workers=workers)
    solve(rates, *order(loader)[:2])
    batches = iter(loader)
    before = order([next(batches), next(batches)])
    # Solved in this epoch, so it leaves the next one only.
    solve(rates, before[0], *set(range(NUM)) - set(before) - set(rates.solved()))
    rates.save(tmp_path)
    state = loader.state_dict()
    rest, after = order(batches), None
    _, again, rates_again = loaders(shuffle=shuffle, workers=workers)
    again.load_state_dict(state)
    rates_again.load(tmp_path)
    assert order(again) == rest and len(before + rest) == 9
    assert rates_again.solved() == rates.solved()
    with pytest.raises(RuntimeError, match="prompts are not solved yet, and a batch needs 3"):
        solve(rates_again, *range(NUM))
        after = order(again)
    assert after is None


def test_counts_of_other_data_are_refused(tmp_path):
    PassRates(4, 0.9).save(tmp_path)
    with pytest.raises(ValueError, match="of 4 prompts, but the training data has 5"):
        PassRates(5, 0.9).load(tmp_path)


def test_only_real_responses_are_counted_once(monkeypatch):
    """Rows 0 and 1 are outputs of one sample, and row 3 is padding."""
    rows = driver.responses(
        score_N=torch.tensor([1.0, 1.0, 0.0, 0.0]),
        final_N=torch.tensor([1, 1, 2, 3]),
        real_N=torch.tensor([True, True, True, False]),
    )
    asked = {}

    def get(keys, partition, select_fields):
        asked.update(keys=keys, fields=select_fields)
        return {ROW: [2, 2]}

    monkeypatch.setattr(resampling.tq, "kv_batch_get", get)
    batch = driver.meta(driver.Rows(list("aaab"), [1] * 4, [0.0] * 4, [0.0] * 4))
    rates = PassRates(4, 0.5)
    assert count_correct(batch, rows, rates) == 1 / 4
    assert asked == {"keys": [batch.keys[1], batch.keys[2]], "fields": [ROW]}
    assert rates.num_R.tolist() == [0, 0, 2, 0] and rates.correct_R.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["leave_out_solved=1.5"], "leave_out_solved is 1.5, but it is a share"),
        (["leave_out_solved=0.9", "algorithm.filter_groups.enable=true"], "before they are count"),
    ],
)
def test_a_share_that_cannot_be_counted_is_refused(composed, overrides, said):
    with pytest.raises(UserError, match=said):
        check_config(composed(*overrides))
