import io
import json

import numpy as np
import pytest
from verl.trainer.ppo.metric_utils import process_validation_metrics

from eval.sampling.grading import grade
from eval.sampling.samples import Sample
from recipe.base.errors import UserError
from recipe.config.compose import composed, resolve
from recipe.config.data import check_validation
from recipe.config.settings import Settings
from recipe.tasks.task import Problems, samples_by_source
from recipe.training.validation import TaskLoader, validation_metrics
from reward.errors import RewardError
from reward.score import compute_score
from reward.sources import RewardSettings

SETTINGS = RewardSettings(workers=1)
TRUTHS = ["34", "1/2", "7"]
# Four responses each: right in two spellings, wrong in two spellings, one without an answer.
RESPONSES = [
    ["Answer: 34", "Answer: 34.0", "Answer: 35", "Answer: 35.0"],
    ["Answer: 0.5", "Answer: 3", "Answer: 6/2", "Answer: 3"],
    ["Hm.", "Answer: 8", "Answer: 9", "Answer: 7"],
]


def columns(responses, truths, source="aime24"):
    """What verl gathers of a validation, in an order that mixes the prompts."""
    flat = [
        (uid, text)
        for number in range(4)
        for uid, row in enumerate(responses)
        for text in row[number : number + 1]
    ]
    graded = [compute_score(source, text, truths[uid], workers=1) for uid, text in flat]
    infos = {key: [row[key] for row in graded] for key in graded[0]}
    infos["reward"] = infos["score"]
    return [source] * len(flat), [str(uid) for uid, _ in flat], infos


def expected(uids, source="aime24", samples=4):
    return {(source, uid): samples for uid in dict.fromkeys(uids)}


def test_validation_and_evaluation_agree_on_the_same_samples(tmp_path):
    sources, uids, infos = columns(RESPONSES, TRUTHS)
    found = validation_metrics(sources, uids, infos, expected(uids), SETTINGS)
    rows = [{"data_source": "aime24", "reward_model": {"ground_truth": truth}} for truth in TRUTHS]
    samples = [
        Sample(problem, number, 0, text, 5, False)
        for problem, row in enumerate(RESPONSES)
        for number, text in enumerate(row)
    ]
    problems = Problems(tmp_path, "", rows)
    result = grade(samples, problems, SETTINGS, tmp_path / "graded.jsonl", io.StringIO())
    for name, value in result["metrics"].items():
        part = "core" if name.endswith("@4") else "aux"
        assert found[f"val-{part}/aime24/acc/{name}"] == pytest.approx(value), name
    assert found["val-aux/aime24/no_answer"] == result["rates"]["no_answer"] == 1 / 12
    assert len((tmp_path / "graded.jsonl").read_text().splitlines()) == 12
    first = json.loads((tmp_path / "graded.jsonl").read_text().splitlines()[0])
    assert (first["ground_truth"], first["outcome"]) == ("34", "correct")


def test_the_mean_is_verls_own_also_where_responses_failed():
    sources, uids, infos = columns(RESPONSES, TRUTHS)
    asked = expected(uids)
    lost = [number for number, uid in enumerate(uids) if uid == "1"][:3]
    kept = [number for number in range(len(uids)) if number not in lost]
    sources, uids = [sources[n] for n in kept], [uids[n] for n in kept]
    infos = {key: [values[n] for n in kept] for key, values in infos.items()}
    found = validation_metrics(sources, uids, infos, asked, SETTINGS)
    by_verl = process_validation_metrics(sources, uids, infos, expected_acc_counts=asked)
    name = "mean@4"
    assert found[f"val-core/aime24/acc/{name}"] == pytest.approx(by_verl["aime24"]["acc"][name])
    assert found["val-aux/aime24/failed"] == 3


def test_sources_are_scored_apart_each_with_its_number_of_samples():
    sources, uids, infos = columns(RESPONSES, TRUTHS)
    other = columns([row[:2] for row in RESPONSES], TRUTHS, "math500")
    both = {key: [*values, *other[2][key]] for key, values in infos.items()}
    asked = expected(uids) | {("math500", f"m{uid}"): 2 for uid in "012"}
    every_uid = [*uids, *(f"m{uid}" for uid in other[1])]
    found = validation_metrics([*sources, *other[0]], every_uid, both, asked, SETTINGS)
    assert found["val-core/aime24/acc/mean@4"] == pytest.approx(4 / 12)
    assert found["val-core/math500/acc/mean@2"] == pytest.approx(3 / 6)


def test_a_row_is_sampled_as_often_as_its_task_says():
    batches = [{"data_source": np.array(["aime24", "math500", "mine"], dtype=object)}]
    [batch] = TaskLoader(batches, ["aime24", "math500"], others=3)
    assert batch["__rollout_n__"].tolist() == [32, 4, 3]
    assert all(type(number) is int for number in batch["__rollout_n__"])
    assert set(batch) == {"data_source", "__rollout_n__"}


def test_two_tasks_of_one_source_cannot_be_told_apart():
    assert samples_by_source(["arithmetic_length_gap", "aime24"]) == {"math_dapo": 2, "aime24": 32}
    with pytest.raises(UserError, match="two tasks of the data source math_dapo"):
        samples_by_source(["arithmetic_length_gap", "arithmetic_length_spread"])


def test_what_is_validated_on_are_the_tasks_or_none_of_them(tmp_path):
    def check(*overrides):
        config = composed(["+experiment=cpu_demo", *overrides])
        resolve(config)
        check_validation(config, Settings.of(config))

    check()
    check("data.val_tasks=[]", f"data.val_files={tmp_path}")
    with pytest.raises(UserError, match=r"data.val_files are not the files of data.val_tasks"):
        check(f"data.val_files={tmp_path}")
    with pytest.raises(UserError, match=r"val_kwargs.n is set, but data.val_tasks"):
        check("actor_rollout_ref.rollout.val_kwargs.n=8")
    with pytest.raises(UserError, match=r"there is no task 'aime23'"):
        check("data.val_tasks=[aime23]")
    with pytest.raises(UserError, match=r"names .*which is not a file\. Make it with"):
        check("data.val_tasks=[aime24]", f"data_root={tmp_path}")


def test_a_scorer_of_ones_own_decides_in_evaluation_as_in_validation(tmp_path):
    """It reads another column, and says itself what is right."""
    sources = {"mine": f"{__name__}:tolerant"}
    settings = RewardSettings.of({"workers": 1, "sources": sources})
    rows = [
        {
            "data_source": "mine",
            "reward_model": {"ground_truth": "34"},
            "extra_info": {"tolerance": tolerance},
        }
        for tolerance in (0, 2)
    ]
    responses = [["34", "35"], ["35", "nan"]]
    samples = [
        Sample(problem, number, 0, text, 1, False)
        for problem, texts in enumerate(responses)
        for number, text in enumerate(texts)
    ]
    problems, kept = Problems(tmp_path, "", rows), tmp_path / "graded.jsonl"
    with pytest.raises(RewardError, match="a response has no reward"):
        grade(samples, problems, settings, kept, io.StringIO())
    samples[3] = samples[3]._replace(response="90")
    result = grade(samples, problems, settings, kept, io.StringIO())
    assert result["correct"] == [1, 1]
    infos = [
        compute_score(
            "mine", one.response, "34", rows[one.problem]["extra_info"], workers=1, sources=sources
        )
        for one in samples
    ]
    columns = {key: [row[key] for row in infos] for key in infos[0]}
    columns["reward"] = columns["score"]
    uids = [str(one.problem) for one in samples]
    asked = {("mine", uid): 2 for uid in "01"}
    found = validation_metrics(["mine"] * 4, uids, columns, asked, settings)
    assert found["val-core/mine/acc/mean@2"] == result["metrics"]["mean@2"] == 0.5


def tolerant(response, ground_truth, extra_info):
    """Something for a number at all; right within the row's tolerance."""
    off = abs(float(response) - float(ground_truth))
    return {"score": 0.1 + off * 0, "acc": float(off <= extra_info["tolerance"])}
