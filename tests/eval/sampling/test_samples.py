import pytest

from eval.sampling.samples import Sample, SampleFile
from recipe.base.errors import UserError

MADE_BY = {"commit": "abc", "versions": {"vllm": "1"}, "command": ""}
SETUP = {"task": "t", "task_version": 1, "seed": 0}


def sample(problem, number):
    return Sample(problem, number, 7, "Answer: 3\n☃", 5, False)


def test_samples_come_back_as_they_were_kept(tmp_path):
    file = SampleFile(tmp_path, "t", SETUP)
    assert file.read() == {}
    file.begin(MADE_BY)
    kept = [sample(0, 1), sample(0, 0), sample(3, 0)]
    for one in kept:
        file.append(one)
    again = SampleFile(tmp_path, "t", SETUP).read()
    assert again == {(one.problem, one.sample): one for one in kept}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_is_removed_and_nothing_else_is_lost(tmp_path, cut):
    file = SampleFile(tmp_path, "t", SETUP)
    file.begin(MADE_BY)
    file.append(sample(0, 0))
    whole = file.path.read_bytes()
    file.append(sample(0, 1))
    file.path.write_bytes(file.path.read_bytes()[:-cut])
    assert list(file.read()) == [(0, 0)]
    assert file.path.read_bytes() == whole
    file.append(sample(0, 1))
    assert list(file.read()) == [(0, 0), (0, 1)]


def test_samples_of_another_setup_are_never_mixed_in(tmp_path):
    other = SampleFile(tmp_path, "t", {"task": "t", "seed": 1})
    file = SampleFile(tmp_path, "t", SETUP)
    file.begin(MADE_BY)
    # Nothing was sampled yet, so nothing can be mixed.
    assert other.read() == {}
    file.append(sample(0, 0))
    with pytest.raises(UserError, match=r"another setup: seed was 0 and is 1; task_version was 1"):
        other.read()


def test_every_session_that_sampled_is_noted_also_one_that_was_killed(tmp_path):
    file = SampleFile(tmp_path, "t", SETUP)
    file.begin(MADE_BY)
    file.append(sample(0, 0))
    file.begin(MADE_BY | {"commit": "def"})
    file.end(7.5)
    noted = [(session["commit"], session["seconds"]) for session in file.sessions()]
    assert noted == [("abc", None), ("def", 7.5)]


def test_a_line_that_is_no_sample_and_one_that_is_there_twice_are_refused(tmp_path):
    file = SampleFile(tmp_path, "t", SETUP)
    file.begin(MADE_BY)
    file.append(sample(0, 0))
    file.path.write_bytes(file.path.read_bytes() + b'{"problem": 1}\n')
    with pytest.raises(UserError, match=r"samples.jsonl:2 is no sample"):
        file.read()
    file.path.write_bytes(file.path.read_bytes().splitlines(keepends=True)[0] * 2)
    with pytest.raises(UserError, match=r":2 holds sample 0 of problem 0 a second time"):
        file.read()
