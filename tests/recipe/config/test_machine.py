from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from transformers import LlamaConfig

from recipe.base.errors import UserError
from recipe.config.machine import check_disk, check_weight_buffer


def test_a_disk_without_room_for_the_checkpoints_is_refused(composed, tmp_path, monkeypatch):
    """7.6e9 parameters of 12 bytes are 91 GB, and two checkpoints are kept."""
    free = SimpleNamespace(free=100e9)
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    config = composed(experiment="qwen25_math_7b_polaris")
    with pytest.raises(UserError, match=r"100 GB are free .* take about 183 GB more"):
        check_disk(config, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "global_step_50" / "model.pt"
    file.parent.mkdir(parents=True)
    with file.open("wb") as sparse:
        sparse.truncate(91 * 10**9)
    check_disk(config, tmp_path / "run")
    config.trainer.resume_mode = "disable"
    with pytest.raises(UserError, match="183 GB more"):
        check_disk(config, tmp_path / "run")
    config.trainer.save_freq = -1
    check_disk(config, tmp_path / "run")


def test_a_model_with_a_larger_parameter_than_the_buffer_is_refused(composed, tmp_path):
    """The embedding is the largest parameter, 49,152 x 96 numbers of 4 bytes: 18 MiB."""
    sizes = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 1}
    LlamaConfig(vocab_size=49152, num_attention_heads=2, **sizes).save_pretrained(tmp_path)
    bucket = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
    config = composed(f"actor_rollout_ref.model.path={tmp_path}", f"{bucket}=17")
    with pytest.raises(UserError, match=r"embed_tokens.weight of .* takes 18 MiB .* has 17 MiB"):
        check_weight_buffer(config)
    OmegaConf.update(config, bucket, 18)
    check_weight_buffer(config)


def test_a_model_that_is_not_there_is_refused(composed, tmp_path):
    config = composed(f"actor_rollout_ref.model.path={tmp_path}")
    with pytest.raises(UserError, match="which is no model that loads here"):
        check_weight_buffer(config)
