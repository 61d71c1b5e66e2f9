import asyncio
from itertools import product
from types import SimpleNamespace

from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from recipe.base.seeds import request_seed
from recipe.training.rollout import SeededSingleTurn


def test_requests_that_differ_in_anything_have_seeds_that_differ():
    keys = product(range(3), range(3), "ab", ("p", "q"), range(8))
    seeds = [request_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_head_of_a_sha256_and_so_the_same_everywhere():
    """Checked with printf and sha256sum."""
    assert request_seed(0, 1, "7", "1 + 1", 3) == 1955813725306266879


def test_the_agent_loop_adds_the_seed_and_leaves_the_shared_parameters(monkeypatch):
    seen = []

    async def run(self, sampling_params, **kwargs):
        seen.append(sampling_params)

    monkeypatch.setattr(SingleTurnAgentLoop, "run", run)
    loop = SeededSingleTurn.__new__(SeededSingleTurn)
    loop.config = SimpleNamespace(seed=5)
    shared = {"temperature": 1.0}
    fields = {"global_steps": 2, "index": "9", "raw_prompt": [{"role": "user", "content": "x"}]}
    for sample in range(2):
        asyncio.run(loop.run(shared, session_id=sample, **fields))
    prompt = '[{"role": "user", "content": "x"}]'
    assert [params["seed"] for params in seen] == [
        request_seed(5, 2, "9", prompt, s) for s in (0, 1)
    ]
    assert shared == {"temperature": 1.0}
