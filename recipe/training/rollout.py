"""Rollouts whose sampling seed is a function of the run, not of timing.

verl's `full_determinism` gives every request of a server one seed, so the responses of a prompt
coincide and no group has any variance. Here each request has its own.
"""

import json
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from recipe.base.seeds import request_seed


class SeededSingleTurn(SingleTurnAgentLoop):
    """verl's single-turn agent loop, with a seed for each request."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Sample one response; `kwargs` are the prompt's fields, as verl hands them on."""
        seed = request_seed(
            self.config.seed,
            int(kwargs["global_steps"]),
            str(kwargs["index"]),
            json.dumps(list(kwargs["raw_prompt"])),
            int(kwargs["session_id"]),
        )
        seeded = {**sampling_params, "seed": seed}
        return await super().run(seeded, **kwargs)  # pyright: ignore[reportAbstractUsage]
