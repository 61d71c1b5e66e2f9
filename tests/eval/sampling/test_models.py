import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from eval.sampling.models import find_models, sha256
from recipe.base.errors import UserError
from recipe.run.journal import seal

OUT = Path("out")


@pytest.fixture
def run(tmp_path):
    """Make a run with complete checkpoints after steps 10 and 20, and a cut-off one after 30."""
    folder = tmp_path / "balanced-s3"
    config = {
        "experiment_name": "cell",
        "seed": 3,
        "aggregation": {"rule": "balanced"},
        "data": {
            "max_response_length": 77,
            "apply_chat_template_kwargs": {"enable_thinking": True},
        },
        "actor_rollout_ref": {"model": {"path": "OWNER/NAME"}},
        "reward": {
            "custom_reward_function": {
                "path": "pkg://reward.score",
                "reward_kwargs": {"thinking": "require"},
            }
        },
    }
    for step in (10, 20, 30):
        actor = folder / "checkpoints" / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        (actor / "shard.pt").write_text("x")
        if step < 30:
            seal(actor.parent, "")
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    command = "python -m recipe.main +experiment=cell aggregation=balanced seed=3 a.b=1"
    starts = [
        {"after_step": 0, "commit": "aaa", "command": command},
        {"after_step": 10, "commit": "bbb", "command": command},
    ]
    (folder / "starts.jsonl").write_text("".join(json.dumps(x) + "\n" for x in starts))
    records = [
        {"step": step, "data": {"aggregation/length_gap": 0.1 * step} if step else {}}
        for step in range(31)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
    return folder


def test_a_run_is_described_as_tables_need_it(run):
    [model] = find_models(str(run), ["last"], OUT)
    assert model.run == {
        "experiment": "cell",
        "rule": "balanced",
        "seed": 3,
        "overrides": ["a.b=1"],
        "step": 20,
        "commit": "aaa, bbb",
        "length_variation": None,
        "length_gap": pytest.approx(0.1 * sum(range(1, 21)) / 20),
    }
    assert model.folder == run / "exported" / "global_step_20"
    assert model.results == run / "eval" / "global_step_20"
    assert model.max_tokens == 77
    assert model.reward == {"thinking": "require"}
    assert model.chat_template == {"enable_thinking": True}


def test_steps_are_chosen_among_the_complete_checkpoints_and_the_start(run):
    def steps(*words):
        return [model.run["step"] for model in find_models(str(run), words, OUT)]

    assert steps("all") == [10, 20]
    assert steps("0", "10", "last") == [0, 10, 20]
    assert find_models(str(run), ["0"], OUT)[0].folder == "OWNER/NAME"
    with pytest.raises(UserError, match=r"no complete checkpoint of step 30; there are 10, 20"):
        steps("30")
    [named] = find_models(str(run / "checkpoints" / "global_step_10"), ["last"], OUT)
    assert named.run["step"] == 10


def test_an_exported_checkpoint_is_the_runs(run):
    exported = run / "exported" / "global_step_10"
    exported.mkdir(parents=True)
    (exported / "config.json").write_text("{}")
    [model] = find_models(str(exported), ["last"], OUT)
    assert model.run["step"] == 10


def test_a_run_without_checkpoints_says_how_to_get_one(run):
    for seal_of in run.glob("checkpoints/*/whole.json"):
        seal_of.unlink()
    with pytest.raises(UserError, match=r"trainer\.save_freq"):
        find_models(str(run), ["last"], OUT)


def test_a_model_of_its_own_has_no_run_and_a_name_of_the_hub_is_taken_as_one(model):
    [own] = find_models(str(model), ["last"], OUT)
    assert (own.run, own.max_tokens, own.results) == (None, None, OUT / "model")
    [hub] = find_models("OWNER/NAME", ["last"], OUT)
    assert (hub.folder, hub.results) == ("OWNER/NAME", OUT / "OWNER--NAME")


def test_the_hash_of_a_model_is_of_its_files_and_needs_weights(model):
    before = sha256(model)
    (model / "notes.txt").write_text("")
    assert sha256(model) == before
    (model / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert sha256(model) != before
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no"):
        sha256(model)
