import math
from dataclasses import asdict, fields

import pytest
from omegaconf import OmegaConf

from reward.sources import ALLOWED, RewardSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deadlin": 1}, "reward setting 'deadlin' does not exist; there are thinking, "),
        ({1: 2}, "reward setting '1' does not exist"),
        ({"thinking": None}, "thinking is None; it may be after, require, ignore"),
        ({"sandbox": "none"}, "sandbox is 'none'; it may be namespaces, landlock, rlimits"),
        ({"asked_form_only": "yes"}, "asked_form_only is 'yes'; it must be true or false"),
        ({"workers": "2"}, "workers is '2'; it must be positive, a whole number"),
        ({"workers": True}, "workers is True; it must be positive"),
        ({"memory_mib": 0.5}, "memory_mib is 0.5; it must be positive, a whole number of MiB"),
        ({"deadline": -1}, "deadline is -1; it must be positive, a number of seconds"),
        ({"deadline": math.inf}, "deadline is inf; it must be positive"),
        ({"sources": {"mine": 3}}, "sources is {'mine': 3}; it must map each data source"),
        ({"sources": "polaris"}, "sources is 'polaris'; it must map each data source"),
        (None, "the reward settings are None; they must be a mapping"),
    ],
)
def test_an_error_names_the_setting_the_value_and_what_is_allowed(settings, message):
    with pytest.raises(ValueError) as raised:
        RewardSettings.of(settings)
    assert str(raised.value).startswith(message)
    assert "pydantic" not in str(raised.value)


def test_every_setting_says_what_it_allows():
    assert list(ALLOWED) == [field.name for field in fields(RewardSettings)]


def test_settings_with_the_same_content_are_equal_and_hash_alike():
    sources = {"b": "polaris", "a": "math_dapo"}
    left = RewardSettings.of({"deadline": 1, "sources": sources})
    right = RewardSettings.of({"deadline": 1.0, "sources": OmegaConf.create(sources)})
    assert left == right == RewardSettings.of(asdict(left))
    assert hash(left) == hash(right)
    assert RewardSettings.of({"sources": None}) == RewardSettings.of({}) == RewardSettings()
