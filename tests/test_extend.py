"""Run the worked examples of docs/extend.md: a rule, an advantage and an objective of one's own."""

import re
from copy import deepcopy

import driver
import pytest
import torch
import yaml
from actor_step import ROWS, gradient
from omegaconf import OmegaConf

from recipe import objectives
from recipe.base.errors import UserError
from recipe.base.paths import ROOT
from recipe.config.checks import check_config
from recipe.config.compose import resolve
from recipe.maths import advantages, rules

BLOCKS = re.findall(
    r"^```(python|yaml)\n(.*?)^```", (ROOT / "docs/extend.md").read_text(), re.MULTILINE | re.DOTALL
)
RULE, ADVANTAGE, OBJECTIVE = (text for kind, text in BLOCKS if kind == "python")
ADVANTAGE_CONFIG, OBJECTIVE_CONFIG = (yaml.safe_load(x) for kind, x in BLOCKS if kind == "yaml")


@pytest.fixture
def config(composed):
    found = deepcopy(composed())
    resolve(found)
    return found


@pytest.fixture
def added(monkeypatch, tmp_path):
    """Put a file into a package, as a person would."""

    def run(package, name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])

    return run


@pytest.fixture
def median():
    exec(RULE, vars(rules))
    yield
    del rules.RULES["median"]


def test_the_rule_gives_every_response_the_median_length(config, monkeypatch, median):
    config.aggregation.rule = "median"
    check_config(config)
    put, metrics = driver.add_columns(monkeypatch, config, ROWS)
    counted = [n for n, uid in zip(ROWS.lengths, ROWS.uids, strict=True) if uid != "pad"]
    # Padding has weight 0, and the others make up for it.
    expected = len(ROWS.uids) / len(counted) / torch.tensor(counted).double().median().item()
    weights = [
        w for w, uid in zip(put["agg_weight"].tolist(), ROWS.uids, strict=True) if uid != "pad"
    ]
    assert weights == pytest.approx([expected] * len(counted))
    assert "aggregation/objective_share_negative/median" in metrics


def test_the_advantage_trains_and_its_settings_are_checked(config, monkeypatch, added):
    added(advantages, "clipped", ADVANTAGE)
    config.advantage = OmegaConf.create(ADVANTAGE_CONFIG)
    check_config(config)
    put, metrics = driver.add_columns(monkeypatch, config, ROWS)
    first = [row[0].item() for row in put["advantages"].unbind()]
    flat = {"c", "pad"}
    assert first == pytest.approx(
        [
            0 if uid in flat else max(-1.0, min(1.0, a))
            for uid, a in zip(ROWS.uids, ROWS.advantages, strict=True)
        ]
    )
    # One of nine responses is beyond the limit.
    assert metrics["advantage/clipped"] == pytest.approx(1 / 11)
    config.advantage.clipped.limit = 0
    with pytest.raises(
        UserError, match=r"advantage\.clipped\.limit is 0, but must be greater than 0"
    ):
        check_config(config)


def test_the_objective_trains_with_the_gradient_of_its_formula(config, monkeypatch, added):
    added(objectives, "imitation", OBJECTIVE)
    config.objective = OmegaConf.create(OBJECTIVE_CONFIG["objective"])
    config.advantage = OmegaConf.create({"name": "none"})
    config.aggregation.rule = None
    check_config(config)
    put, _ = driver.add_columns(monkeypatch, config, ROWS)
    found = gradient(config, put, monkeypatch)
    expected = []
    for uid, length, score in zip(ROWS.uids, ROWS.lengths, ROWS.scores, strict=True):
        correct = score > 0 and uid != "pad"
        token = -1 / length / len(ROWS.uids) if correct else 0.0
        # Outputs cover the prompt of two tokens and stand one token to the left.
        expected += [0.0, *[token] * length, 0.0]
    assert found.tolist() == pytest.approx(expected)
